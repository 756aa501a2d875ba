// Tells ThreadSanitizer of the order that a futex makes: the standard library, which calls it, is not instrumented. Linked
// in place of the C library's `syscall`; x86-64 Linux.
#include <errno.h>
#include <linux/futex.h>
#include <stdarg.h>
#include <sys/syscall.h>

void __tsan_acquire(void *address);
void __tsan_release(void *address);

long syscall(long number, ...) {
  long a[6], result;
  va_list list;
  va_start(list, number);
  for (int i = 0; i < 6; i++) a[i] = va_arg(list, long);
  va_end(list);
  int is_futex = number == SYS_futex;
  int wakes = ((int)a[1] & FUTEX_CMD_MASK) == FUTEX_WAKE;
  if (is_futex && wakes) __tsan_release((void *)a[0]);
  register long r10 __asm__("r10") = a[3], r8 __asm__("r8") = a[4], r9 __asm__("r9") = a[5];
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  if (is_futex && !wakes) __tsan_acquire((void *)a[0]);
  if (result < 0 && result > -4096) {
    errno = (int)-result;
    return -1;
  }
  return result;
}
