// The fake of NVIDIA's libraries, in one translation unit.
#include "fake.h"
#include "driver.h"
#include "cublas.h"
#include "nvrtc.h"
#include "cudnn.h"

API const char* launch_on_cpu(const char* name, const unsigned* grid, const unsigned* block, int reversed, int cooperative,
                              void** arguments) {
    static thread_local std::string message;
    emulator::reversed = reversed;
    const Kernel* kernel = find_kernel(name);
    try {
        if (!kernel) throw std::runtime_error("there is no such kernel");
        kernel->run({grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, cooperative, arguments);
        return nullptr;
    } catch (const std::exception& error) {
        message = error.what();
        return message.c_str();
    }
}
