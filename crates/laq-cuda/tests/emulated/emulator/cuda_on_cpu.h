// CUDA on the CPU: kernels compile unchanged, and run with one fiber per thread.
//
// Fibers are scheduled cooperatively, so that atomics are plain operations; at a barrier a fiber waits for its warp or block. A
// barrier that some threads never reach is an error, not a hang. Not detected: races between threads without a barrier, and
// misuse of memory that is asynchronous on a GPU only.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <math.h>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulator {

constexpr unsigned WARP = 32;
constexpr std::size_t STACK = 64 << 10;

// `spinning`: polls for the progress of another block.
enum class State { fresh, ready, at_warp, at_block, spinning, done };

struct Operands {
    unsigned a[4], b[2];
};

struct Block {
    dim3 index;
    std::vector<unsigned char> shared;
    std::vector<std::uint64_t> slots;  // one per thread: what warps exchange
    std::vector<Operands> operands;    // one per thread: operands of tensor cores
};

// A CUDA thread. It starts on the stack of a finished one if there is one.
struct Fiber {
    jmp_buf place;
    Block* block = nullptr;
    dim3 thread;
    unsigned linear = 0;
    State state = State::fresh;
};

struct Launch {
    dim3 grid, block;
    const std::function<void()>* body;
    std::vector<Fiber> fibers;
    std::size_t begun = 0;
    jmp_buf scheduler;
};

// Whether blocks, and threads between barriers, are scheduled from the last to the first. Results must not depend on it.
inline thread_local bool reversed = false;

// Stacks are reused across launches.
inline thread_local std::vector<std::unique_ptr<unsigned char[]>> stacks;

inline thread_local Launch* launch = nullptr;
inline thread_local Fiber* current = nullptr;

inline void wait(State state) {
    current->state = state;
    if (_setjmp(current->place) == 0) _longjmp(launch->scheduler, 1);
}

// Switches from the scheduler to a waiting fiber or a fresh stack until it yields. Unlike swapcontext, jumps do not save the
// signal mask.
__attribute__((noinline)) inline void resume(jmp_buf& place) {
    if (_setjmp(launch->scheduler) == 0) _longjmp(place, 1);
}

__attribute__((noinline)) inline void enter(ucontext_t& fresh) {
    if (_setjmp(launch->scheduler) == 0) setcontext(&fresh);
}

inline unsigned long long nanoseconds() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return (unsigned long long)(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

// The offset of a shared variable in the shared memory of every block.
inline std::size_t shared_offset(std::size_t size) {
    static std::size_t next = 0;
    std::size_t place = (next + 15) / 16 * 16;
    next = place + size;
    return place;
}

inline void* shared(std::size_t place, std::size_t size) {
    auto& memory = current->block->shared;
    if (memory.size() < place + size) throw std::runtime_error("out of shared memory");
    return memory.data() + place;
}

inline void start() {
    do {
        const std::size_t next = launch->begun++;
        current = &launch->fibers[reversed ? launch->fibers.size() - 1 - next : next];
        current->state = State::ready;
        (*launch->body)();
        current->state = State::done;
    } while (launch->begun < launch->fibers.size());
    _longjmp(launch->scheduler, 1);
}

// Resumes the fibers of a group that wait at `at` once all unfinished ones do.
template <class Range>
bool release(const Range& group, State at) {
    bool any = false;
    for (Fiber* fiber : group) {
        if (fiber->state == State::done) continue;
        if (fiber->state != at) return false;
        any = true;
    }
    for (Fiber* fiber : group)
        if (fiber->state == at) fiber->state = State::ready;
    return any;
}

constexpr std::size_t SHARED = 256 << 10;

// Runs these blocks concurrently.
inline void run_blocks(dim3 grid, dim3 block, const std::vector<dim3>& indices, const std::function<void()>& body) {
    Launch now;
    now.grid = grid;
    now.block = block;
    now.body = &body;
    const unsigned threads = block.x * block.y * block.z;
    now.fibers = std::vector<Fiber>(indices.size() * threads);
    launch = &now;
    std::vector<Block> blocks(indices.size());
    std::vector<std::vector<std::vector<Fiber*>>> of_warps(indices.size());
    std::vector<std::vector<Fiber*>> of_blocks(indices.size());
    std::vector<Fiber*> all;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
        blocks[b].index = indices[b];
        // Filled with NaN, so that uninitialized reads show.
        blocks[b].shared.assign(SHARED, 0xff);
        blocks[b].slots.resize(threads);
        blocks[b].operands.resize(threads);
        for (unsigned t = 0; t < threads; ++t) {
            Fiber& fiber = now.fibers[b * threads + t];
            fiber.block = &blocks[b];
            fiber.linear = t;
            fiber.thread = {t % block.x, t / block.x % block.y, t / (block.x * block.y)};
            if (t % WARP == 0) of_warps[b].emplace_back();
            of_warps[b].back().push_back(&fiber);
            of_blocks[b].push_back(&fiber);
            all.push_back(&fiber);
        }
        if (reversed) std::reverse(of_blocks[b].begin(), of_blocks[b].end());
    }
    for (std::size_t used = 0; now.begun < now.fibers.size(); ++used) {
        if (used == stacks.size()) stacks.emplace_back(new unsigned char[STACK]);
        ucontext_t fresh;
        getcontext(&fresh);
        fresh.uc_stack.ss_sp = stacks[used].get();
        fresh.uc_stack.ss_size = STACK;
        fresh.uc_link = nullptr;
        makecontext(&fresh, start, 0);
        enter(fresh);
    }
    // Schedules a block once; whether it made progress, which a spinning thread does not.
    const auto advance = [&](std::size_t b) {
        bool any = false;
        for (Fiber* fiber : of_blocks[b]) {
            const bool spins = fiber->state == State::spinning;
            if (fiber->state != State::ready && !spins) continue;
            current = fiber;
            resume(fiber->place);
            any |= !spins || fiber->state != State::spinning;
        }
        for (auto& warp : of_warps[b]) any |= release(warp, State::at_warp);
        return release(of_blocks[b], State::at_block) || any;
    };
    // A block runs as far as it can before the next is scheduled, so that a missing wait shows.
    for (bool any = true; any;) {
        any = false;
        for (std::size_t b = 0; b < blocks.size(); ++b)
            while (advance(b)) any = true;
    }
    launch = nullptr;
    current = nullptr;
    for (Fiber* fiber : all)
        if (fiber->state != State::done) throw std::runtime_error("a barrier that some threads never reach");
}

// `cooperative`: all blocks run concurrently.
inline void run(dim3 grid, dim3 block, bool cooperative, const std::function<void()>& body) {
    std::vector<dim3> indices;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) indices.push_back({x, y, z});
    if (reversed) std::reverse(indices.begin(), indices.end());
    if (cooperative) return run_blocks(grid, block, indices, body);
    for (dim3 index : indices) run_blocks(grid, block, {index}, body);
}

template <class T>
T exchange(T value, unsigned from_lane) {
    static_assert(sizeof(T) <= sizeof(std::uint64_t));
    auto& slots = current->block->slots;
    const unsigned first = current->linear / WARP * WARP;
    std::memcpy(&slots[current->linear], &value, sizeof(T));
    wait(State::at_warp);
    T found = value;
    if (first + from_lane < slots.size()) std::memcpy(&found, &slots[first + from_lane], sizeof(T));
    wait(State::at_warp);
    return found;
}

// Calls a kernel with a pointer to each argument, as a driver's launch does.
template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void run_kernel(void (*kernel)(A...), dim3 grid, dim3 block, bool cooperative, void** arguments) {
    run(grid, block, cooperative, [&] { call(kernel, arguments, std::index_sequence_for<A...>{}); });
}

}  // namespace emulator

#define __global__
#define UNROLL
#define __device__ static inline
#define threadIdx (emulator::current->thread)
#define blockIdx (emulator::current->block->index)
#define blockDim (emulator::launch->block)
#define gridDim (emulator::launch->grid)

// Shared memory: SHARED(float, tile, [32][33]) instead of __shared__ float tile[32][33].
#define SHARED(type, name, size)                                             \
    using name##_shared_type = type size;                                    \
    static const std::size_t name##_offset = emulator::shared_offset(sizeof(name##_shared_type)); \
    auto& name = *static_cast<name##_shared_type*>(emulator::shared(name##_offset, sizeof(name##_shared_type)))

inline void __syncthreads() { emulator::wait(emulator::State::at_block); }
inline void __syncwarp(unsigned = ~0u) { emulator::wait(emulator::State::at_warp); }
inline void __threadfence() {}

// Tensor cores without their rounding; see sequence.cu.
#define TENSOR_CORES
inline unsigned __float_as_uint(float x);
inline float __uint_as_float(unsigned bits);
inline unsigned to_tf32(float x) { return __float_as_uint(x); }
inline void multiply_tile(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    using namespace emulator;
    auto& operands = current->block->operands;
    const unsigned lane = current->linear % WARP, first = current->linear - lane, g = lane / 4, t = lane % 4;
    Operands& own = operands[current->linear];
    std::copy(a, a + 4, own.a);
    std::copy(b, b + 2, own.b);
    wait(State::at_warp);
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = c[i];
        for (unsigned k = 0; k < 8; ++k) {
            // The lanes and registers of A[row][k] and B[k][column].
            const unsigned of_a = operands[first + row % 8 * 4 + k % 4].a[row / 8 + k / 4 * 2];
            const unsigned of_b = operands[first + column * 4 + k % 4].b[k / 4];
            sum += double(__uint_as_float(of_a)) * double(__uint_as_float(of_b));
        }
        c[i] = float(sum);
    }
    wait(State::at_warp);
}
template <std::size_t N>
void load_fresh(float (&to)[N], const float* from) { std::copy(from, from + N, to); }
inline void yield_block() { emulator::wait(emulator::State::spinning); }

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::exchange(value, (emulator::current->linear % 32) ^ mask);
}
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned by) {
    const unsigned lane = emulator::current->linear % 32;
    return emulator::exchange(value, lane < by ? lane : lane - by);
}
#define NANOSECONDS emulator::nanoseconds()
template <class T>
T atomicAdd(T* place, T value) { T old = *place; *place = old + value; return old; }
template <class T>
T atomicMax(T* place, T value) { T old = *place; *place = std::max(old, value); return old; }
template <class T>
T atomicMin(T* place, T value) { T old = *place; *place = std::min(old, value); return old; }

inline float __double2float_rd(double x) {
    const float nearest = float(x);
    return double(nearest) > x ? std::nextafter(nearest, -INFINITY) : nearest;
}
inline float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
using std::max;
using std::min;
