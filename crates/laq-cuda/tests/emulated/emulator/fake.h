// A fake of NVIDIA's driver, cuBLAS, NVRTC and cuDNN on the emulator: the functions that this project calls, as NVIDIA
// documents them.
//
// It is stricter than the originals. Streams defer all work until a synchronization, so that lifetimes and order matter. Every
// operand must lie in allocated memory when the work executes; new and freed memory is filled with NaN and guarded. Violations
// (a call without a context, an allocation in a capture, a stale handle) are errors and are reported, as are leaks at exit.
//
// The report goes to the file FAKE_CUDA_REPORT, one line each. Other variables inject failures:
//   FAKE_CUDA_INIT          the result of cuInit
//   FAKE_CUDA_DRIVER        the driver's version, such as 11080
//   FAKE_CUDA_DEVICES       the number of GPUs; an empty CUDA_VISIBLE_DEVICES hides them
//   FAKE_CUDA_MEMORY        bytes of memory of each GPU
//   FAKE_CUDA_COOPERATIVE   0: no cooperative launches
//   FAKE_CUDA_POOLS         0: no stream-ordered allocation
//   FAKE_CUDA_FAIL_AFTER    stream operations until the device is lost
//   FAKE_CUDA_FAILURE       the error of the lost device (default 700, illegal address)
//   FAKE_CUDA_NVRTC_FAILS   the log of a compiler that rejects everything
//   FAKE_CUDA_CUDNN         the version of cuDNN
//   FAKE_CUDA_CUDNN_REFUSES 1: ranked algorithms fail
#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace fake {

using Address = unsigned long long;
using Handle = std::uintptr_t;

constexpr unsigned MULTIPROCESSORS = 132;
constexpr int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
              INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, ILLEGAL_STATE = 401,
              NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, TOO_LARGE = 720, CAPTURE_UNSUPPORTED = 900,
              CAPTURE_INVALIDATED = 901, CAPTURE_WRONG_THREAD = 908;

// Why a call fails. A fault with a text is an error of the caller and is reported.
struct Fault {
    int code;
    std::string what;
};

// A kernel: its launch, and the sizes of its arguments and whether they are pointers.
struct Kernel {
    const char* name;
    std::vector<std::size_t> sizes;
    std::vector<bool> pointers;
    // `cooperative`: blocks may wait for each other.
    std::function<void(dim3, dim3, bool cooperative, void**)> run;
};

template <class... A>
Kernel kernel(const char* name, void (*function)(A...)) {
    return {name, {sizeof(A)...}, {std::is_pointer<A>::value...}, [function](dim3 grid, dim3 block, bool cooperative, void** arguments) {
                emulator::run_kernel(function, grid, block, cooperative, arguments);
            }};
}

#define KERNEL(name) kernel(#name, ::name),
inline const Kernel* find_kernel(const char* name) {
    static const std::vector<Kernel> all = {EACH_KERNEL(KERNEL)};
    for (const Kernel& one : all)
        if (!std::strcmp(one.name, name)) return &one;
    return nullptr;
}

// Deferred work of a stream.
using Operation = std::function<void()>;

struct Context {
    int device;
};

struct Stream {
    Handle context;
    std::deque<Operation> queue;
    bool captures = false, invalidated = false;
    std::thread::id capturer;
    std::vector<Operation> noted;
};

struct Module {
    Handle context;
    std::vector<Handle> functions;
};

struct Function {
    Handle context;
    const Kernel* kernel;
};

using Nodes = std::shared_ptr<const std::vector<Operation>>;

struct Exec {
    Handle context;
    Nodes nodes;
};

struct Allocation {
    int device;
    std::size_t size;
    unsigned char* raw;
    bool given_back = false;
};

struct Blas {
    Handle context, stream = 0;
    Address workspace = 0;
    std::size_t workspace_size = 0;
};

struct Dnn {
    Handle context, stream = 0;
};

// A tensor or a filter: its sizes and strides in the order N, C, H, W.
struct Layout {
    bool set = false;
    int size[4] = {};
    std::size_t stride[4] = {};

    std::size_t bytes() const { return std::size_t(4) * size[0] * size[1] * size[2] * size[3]; }
    std::size_t at(int n, int c, int h, int w) const { return n * stride[0] + c * stride[1] + h * stride[2] + w * stride[3]; }
};

struct Convolution {
    bool set = false;
    int pad[2], step[2], dilation[2], mode, math = 0;
};

struct Program {
    std::string source, log;
    std::vector<char> image;
};

struct Device {
    std::size_t total, used = 0;
    int retained = 0;
    Handle context = 0;
    // The error of a lost device.
    int failed = 0;
};

long long setting(const char* name, long long otherwise) {
    const char* text = std::getenv(name);
    return text && *text ? std::atoll(text) : otherwise;
}

struct Everything {
    std::recursive_mutex lock;
    bool started = false;
    Handle next = 0x1000;
    std::vector<Device> devices;
    std::map<Handle, Context> contexts;
    std::map<Handle, Stream> streams;
    std::map<Handle, Module> modules;
    std::map<Handle, Function> functions;
    std::map<Handle, Nodes> graphs;
    std::map<Handle, Exec> execs;
    std::map<Handle, Blas> blas;
    std::map<Handle, Dnn> dnn;
    std::map<Handle, Layout> tensors, filters;
    std::map<Handle, Convolution> convolutions;
    std::map<Handle, Program> programs;
    std::map<Address, Allocation> memory;
    std::vector<std::string> mistakes;
    std::map<std::string, long long> counts;
    std::set<std::string> launched;
    long long left = setting("FAKE_CUDA_FAIL_AFTER", -1);
    bool has_failed = false;

    Handle handle() { return next += 16; }
};

// Never destroyed, so that it outlives all users.
Everything& all() {
    static Everything* one = new Everything;
    return *one;
}

thread_local Handle current = 0;

void note_mistake(const std::string& what) {
    if (all().mistakes.size() < 100) all().mistakes.push_back(what);
}

// The report at exit.
__attribute__((destructor)) void report() {
    const char* path = std::getenv("FAKE_CUDA_REPORT");
    Everything& e = all();
    if (!path || !e.started) return;
    std::ofstream out(path);
    for (auto& [what, count] : e.counts) out << what << " " << count << "\n";
    for (auto& name : e.launched) out << "launched " << name << "\n";
    for (auto& what : e.mistakes) out << "mistake " << what << "\n";
    if (e.has_failed) return;
    std::size_t bytes = 0;
    for (auto& one : e.memory) bytes += one.second.size;
    if (bytes) out << "left memory " << e.memory.size() << " pieces, " << bytes << " bytes\n";
    const std::pair<const char*, std::size_t> rest[] = {
        {"contexts", e.contexts.size()},   {"streams", e.streams.size()},
        {"modules", e.modules.size()},     {"graphs", e.graphs.size()},
        {"execs", e.execs.size()},         {"cuBLAS handles", e.blas.size()},
        {"cuDNN handles", e.dnn.size()},   {"tensor descriptors", e.tensors.size()},
        {"filter descriptors", e.filters.size()},
        {"convolution descriptors", e.convolutions.size()},
        {"NVRTC programs", e.programs.size()}};
    for (auto& [what, count] : rest)
        if (count) out << "left " << what << " " << count << "\n";
}

// A call: faults become its result.
template <class Body>
int call(const char* name, const Body& body) {
    std::lock_guard<std::recursive_mutex> hold(all().lock);
    try {
        body();
        return 0;
    } catch (const Fault& fault) {
        if (!fault.what.empty()) note_mistake(std::string(name) + ": " + fault.what);
        return fault.code;
    }
}

template <class T>
T& find(std::map<Handle, T>& among, const void* handle, const char* what) {
    auto place = among.find(Handle(handle));
    if (place == among.end()) throw Fault{INVALID_HANDLE, std::string("there is no such ") + what};
    return place->second;
}

template <class T>
void* made(std::map<Handle, T>& among, T&& value) {
    const Handle handle = all().handle();
    among.emplace(handle, std::move(value));
    return reinterpret_cast<void*>(handle);
}

void must_have_started() {
    if (!all().started) throw Fault{NOT_INITIALIZED, "cuInit was not called"};
}

Device& device_of(Handle context) { return all().devices[all().contexts.at(context).device]; }

// The device of the current context.
Device& here() {
    must_have_started();
    if (!current) throw Fault{INVALID_CONTEXT, "no context is current in this thread"};
    if (!all().contexts.count(current)) throw Fault{INVALID_CONTEXT, "the current context was destroyed"};
    Device& device = device_of(current);
    if (device.failed) throw Fault{device.failed, ""};
    return device;
}

void same_context(Handle context, const char* what) {
    if (context != current) throw Fault{INVALID_CONTEXT, std::string(what) + " belongs to another context"};
}

Stream& stream_here(void* handle) {
    here();
    Stream& stream = find(all().streams, handle, "stream");
    same_context(stream.context, "the stream");
    return stream;
}

// Forbidden in a capture: by the capturing thread, and on the captured stream.
void no_capture(const Stream* with = nullptr) {
    for (auto& one : all().streams) {
        Stream& stream = one.second;
        if (!stream.captures || (&stream != with && stream.capturer != std::this_thread::get_id())) continue;
        stream.invalidated = true;
        throw Fault{CAPTURE_UNSUPPORTED, "not during a capture"};
    }
}

// A stream operation, which may lose the device.
void perform(const Operation& operation) {
    Everything& e = all();
    ++e.counts["operations"];
    if (e.left == 0) {
        e.has_failed = true;
        throw Fault{int(setting("FAKE_CUDA_FAILURE", ILLEGAL_ADDRESS)), ""};
    }
    if (e.left > 0) --e.left;
    operation();
}

void perform_first(Stream& stream) {
    const Operation operation = std::move(stream.queue.front());
    stream.queue.pop_front();
    Device& device = device_of(stream.context);
    try {
        perform(operation);
    } catch (const Fault& fault) {
        // The next synchronization returns the fault of deferred work.
        if (!fault.what.empty()) note_mistake("deferred: " + fault.what);
        device.failed = fault.code;
        for (auto& one : all().streams)
            if (&device_of(one.second.context) == &device) one.second.queue.clear();
    }
}

void drain(Stream& stream) {
    while (!stream.queue.empty()) perform_first(stream);
    const int failed = device_of(stream.context).failed;
    if (failed) throw Fault{failed, ""};
}

void drain_all(const Device& device) {
    for (auto& one : all().streams)
        if (&device_of(one.second.context) == &device && !one.second.captures) drain(one.second);
}

void ask(Stream& stream, Operation operation) {
    if (!stream.captures) {
        stream.queue.push_back(std::move(operation));
        // As on a GPU, the host waits once the queue is full.
        if (stream.queue.size() > 2000) perform_first(stream);
        return;
    }
    if (stream.invalidated) throw Fault{CAPTURE_INVALIDATED, ""};
    if (stream.capturer != std::this_thread::get_id())
        throw Fault{CAPTURE_WRONG_THREAD, "another thread than the one that records"};
    stream.noted.push_back(std::move(operation));
}

constexpr std::size_t GUARD = 256;
constexpr unsigned char GUARDED = 0xa5, POISON = 0xff;

Address allocate(Device& device, std::size_t size) {
    if (size == 0) throw Fault{INVALID_VALUE, "no bytes are asked for"};
    if (device.used + size > device.total) drain_all(device);
    if (device.used + size > device.total) throw Fault{OUT_OF_MEMORY, ""};
    const std::size_t whole = (size + 2 * GUARD + 255) / 256 * 256;
    auto raw = static_cast<unsigned char*>(std::aligned_alloc(256, whole));
    std::memset(raw, GUARDED, whole);
    std::memset(raw + GUARD, POISON, size);
    device.used += size;
    const Address address = Address(raw + GUARD);
    all().memory[address] = Allocation{int(&device - all().devices.data()), size, raw};
    return address;
}

// Frees an allocation and checks its guards.
void give_back(Address address) {
    auto place = all().memory.find(address);
    if (place == all().memory.end()) throw Fault{ILLEGAL_ADDRESS, "free of unallocated memory"};
    const Allocation one = place->second;
    for (std::size_t i = 0; i < GUARD; ++i)
        if (one.raw[i] != GUARDED || one.raw[GUARD + one.size + i] != GUARDED) {
            note_mistake("out-of-bounds write next to memory of " + std::to_string(one.size) + " bytes");
            break;
        }
    std::memset(one.raw, POISON, one.size + 2 * GUARD);
    std::free(one.raw);
    all().devices[one.device].used -= one.size;
    all().memory.erase(place);
}

void begin_giving_back(Address address) {
    auto place = all().memory.find(address);
    if (place == all().memory.end() || place->second.given_back)
        throw Fault{INVALID_VALUE, "free of unallocated memory"};
    place->second.given_back = true;
}

void in_memory(const Device& device, Address address, std::size_t bytes, const std::string& what) {
    auto place = all().memory.upper_bound(address);
    if (place != all().memory.begin()) {
        --place;
        const Allocation& one = place->second;
        if (&all().devices[one.device] == &device && address + bytes <= place->first + one.size) return;
    }
    throw Fault{ILLEGAL_ADDRESS, what + " is not in allocated memory"};
}

// Rounds to TF32.
float to_tf32(float x) {
    unsigned bits;
    std::memcpy(&bits, &x, 4);
    if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & ~0x1fffu;
    std::memcpy(&x, &bits, 4);
    return x;
}

double factor(const float* values, std::size_t index, bool tf32) {
    return tf32 ? to_tf32(values[index]) : values[index];
}

// Workspaces are left with unspecified contents.
void use_workspace(Address workspace, std::size_t size) {
    std::memset(reinterpret_cast<void*>(workspace), 0xcc, std::min(size, std::size_t(4096)));
}

}  // namespace fake

using namespace fake;

#define API extern "C" __attribute__((visibility("default")))
