// An imitation of NVIDIA's driver, cuBLAS, NVRTC and cuDNN on the emulator: the functions that this project calls, as
// NVIDIA's documentation describes them, for tests of everything above them.
//
// It is stricter than the originals. Streams put off what they are asked until somebody waits, so that lifetimes and order
// matter. Every operand must lie in memory that lives when its turn comes; new and freed memory is full of NaN, and has guards
// around it. What is not allowed (a call without a context, an allocation while a stream records, a handle that is gone) is
// an error, and is written down; so is what is left when the process ends.
//
// The file that FAKE_CUDA_REPORT names gets all of that at the end, a line each. Other variables make it fail:
//   FAKE_CUDA_INIT          what cuInit returns
//   FAKE_CUDA_DRIVER        the driver's version, such as 11080
//   FAKE_CUDA_DEVICES       how many GPUs there are; CUDA_VISIBLE_DEVICES hides them where it is empty
//   FAKE_CUDA_MEMORY        bytes that each of them has
//   FAKE_CUDA_COOPERATIVE   0: blocks cannot wait for each other
//   FAKE_CUDA_POOLS         0: there is no allocation in a stream's order
//   FAKE_CUDA_FAIL_AFTER    operations of streams after which the device fails, and every call from then on
//   FAKE_CUDA_FAILURE       with which error (700, an illegal address)
//   FAKE_CUDA_NVRTC_FAILS   what the compiler says when it refuses everything
//   FAKE_CUDA_CUDNN         cuDNN's version
//   FAKE_CUDA_CUDNN_REFUSES 1: it does not do what it has offered
#include <cstdlib>
#include <deque>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

namespace imitation {

using Address = unsigned long long;
using Handle = std::uintptr_t;

constexpr unsigned MULTIPROCESSORS = 132;
constexpr int INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
              INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY = 209, INVALID_HANDLE = 400, ILLEGAL_STATE = 401,
              NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719, TOO_LARGE = 720, CAPTURE_UNSUPPORTED = 900,
              CAPTURE_INVALIDATED = 901, CAPTURE_WRONG_THREAD = 908;

// Why a call does not succeed. What has a text is a mistake of the caller, and is written down.
struct Fault {
    int code;
    std::string what;
};

// A kernel: how to launch it, the sizes of its arguments, and which of them are pointers.
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

// Something that a stream does when its turn comes.
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
    // The error after which nothing works any more.
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

// It is never destroyed, so that it is there whatever ends first.
Everything& all() {
    static Everything* one = new Everything;
    return *one;
}

thread_local Handle current = 0;

void note_mistake(const std::string& what) {
    if (all().mistakes.size() < 100) all().mistakes.push_back(what);
}

// What a process leaves behind, when it ends.
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

// One call: its faults become its result.
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

// The device of the context that this thread has.
Device& here() {
    must_have_started();
    if (!current) throw Fault{INVALID_CONTEXT, "no context is current in this thread"};
    if (!all().contexts.count(current)) throw Fault{INVALID_CONTEXT, "the context of this thread is gone"};
    Device& device = device_of(current);
    if (device.failed) throw Fault{device.failed, ""};
    return device;
}

void same_context(Handle context, const char* what) {
    if (context != current) throw Fault{INVALID_CONTEXT, std::string(what) + " is not of the context of this thread"};
}

Stream& stream_here(void* handle) {
    here();
    Stream& stream = find(all().streams, handle, "stream");
    same_context(stream.context, "the stream");
    return stream;
}

// What must not be done while a stream records: by the thread that records, and with the stream that does.
void no_capture(const Stream* with = nullptr) {
    for (auto& one : all().streams) {
        Stream& stream = one.second;
        if (!stream.captures || (&stream != with && stream.capturer != std::this_thread::get_id())) continue;
        stream.invalidated = true;
        throw Fault{CAPTURE_UNSUPPORTED, "not while a stream records"};
    }
}

// One operation of a stream, which may be the one at which the device fails.
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
        // Nobody asked for this operation just now: the next who waits is told.
        if (!fault.what.empty()) note_mistake("in a stream: " + fault.what);
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
        // A GPU too makes the host wait once so many launches are before it.
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

// Gives a piece back now. Nobody may have written beside it.
void give_back(Address address) {
    auto place = all().memory.find(address);
    if (place == all().memory.end()) throw Fault{ILLEGAL_ADDRESS, "memory is given back that is not there"};
    const Allocation one = place->second;
    for (std::size_t i = 0; i < GUARD; ++i)
        if (one.raw[i] != GUARDED || one.raw[GUARD + one.size + i] != GUARDED) {
            note_mistake("something was written beside memory of " + std::to_string(one.size) + " bytes");
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
        throw Fault{INVALID_VALUE, "memory is given back that is not there"};
    place->second.given_back = true;
}

void in_memory(const Device& device, Address address, std::size_t bytes, const std::string& what) {
    auto place = all().memory.upper_bound(address);
    if (place != all().memory.begin()) {
        --place;
        const Allocation& one = place->second;
        if (&all().devices[one.device] == &device && address + bytes <= place->first + one.size) return;
    }
    throw Fault{ILLEGAL_ADDRESS, what + " is not in memory that lives"};
}

// The factors of tensor cores.
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

// Libraries may leave anything in their workspaces.
void use_workspace(Address workspace, std::size_t size) {
    std::memset(reinterpret_cast<void*>(workspace), 0xcc, std::min(size, std::size_t(4096)));
}

}  // namespace imitation

using namespace imitation;

#define API extern "C" __attribute__((visibility("default")))

// ---------------------------------------------------------------------------------------------------- the emulator

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

// ------------------------------------------------------------------------------------------------------ the driver

API int cuInit(unsigned flags) {
    return call("cuInit", [&] {
        if (flags != 0) throw Fault{INVALID_VALUE, "flags"};
        const int result = int(setting("FAKE_CUDA_INIT", 0));
        if (result != 0) throw Fault{result, ""};
        const char* visible = std::getenv("CUDA_VISIBLE_DEVICES");
        const long long count = visible && !*visible ? 0 : setting("FAKE_CUDA_DEVICES", 1);
        if (count == 0) throw Fault{NO_DEVICE, ""};
        if (all().started) return;
        all().started = true;
        all().devices.resize(count, Device{std::size_t(setting("FAKE_CUDA_MEMORY", 2ll << 30))});
    });
}

API int cuDriverGetVersion(int* version) {
    *version = int(setting("FAKE_CUDA_DRIVER", 13000));
    return 0;
}

API int cuGetErrorString(int error, const char** text) {
    static const std::map<int, const char*> texts = {
        {0, "no error"},
        {INVALID_VALUE, "invalid argument"},
        {OUT_OF_MEMORY, "out of memory"},
        {NOT_INITIALIZED, "initialization error"},
        {46, "CUDA-capable device(s) is/are busy or unavailable"},
        {NO_DEVICE, "no CUDA-capable device is detected"},
        {INVALID_DEVICE, "invalid device ordinal"},
        {INVALID_IMAGE, "device kernel image is invalid"},
        {INVALID_CONTEXT, "invalid device context"},
        {NO_BINARY, "no kernel image is available for execution on the device"},
        {INVALID_HANDLE, "invalid resource handle"},
        {ILLEGAL_ADDRESS, "an illegal memory access was encountered"},
        {LAUNCH_FAILED, "unspecified launch failure"},
        {803, "system has unsupported display driver / cuda driver combination"},
        {CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"},
        {CAPTURE_INVALIDATED, "operation failed due to a previous error during capture"}};
    auto place = texts.find(error);
    *text = place == texts.end() ? nullptr : place->second;
    return *text ? 0 : INVALID_VALUE;
}

API int cuGetErrorName(int, const char** text) {
    *text = "CUDA_ERROR";
    return 0;
}

API int cuDeviceGetCount(int* count) {
    return call("cuDeviceGetCount", [&] {
        must_have_started();
        *count = int(all().devices.size());
    });
}

static Device& device_number(int number) {
    must_have_started();
    if (number < 0 || number >= int(all().devices.size())) throw Fault{INVALID_DEVICE, "there is no such device"};
    return all().devices[number];
}

API int cuDeviceGet(int* device, int ordinal) {
    return call("cuDeviceGet", [&] {
        device_number(ordinal);
        *device = ordinal;
    });
}

API int cuDeviceGetName(char* name, int length, int device) {
    return call("cuDeviceGetName", [&] {
        device_number(device);
        std::strncpy(name, "Imitation GPU", length);
    });
}

API int cuDeviceTotalMem_v2(std::size_t* bytes, int device) {
    return call("cuDeviceTotalMem", [&] { *bytes = device_number(device).total; });
}

API int cuDeviceGetAttribute(int* value, int attribute, int device) {
    return call("cuDeviceGetAttribute", [&] {
        device_number(device);
        switch (attribute) {
            case 16: *value = int(MULTIPROCESSORS); break;
            case 75: *value = 9; break;
            case 76: *value = 0; break;
            case 95: *value = int(setting("FAKE_CUDA_COOPERATIVE", 1)); break;
            case 115: *value = int(setting("FAKE_CUDA_POOLS", 1)); break;
            default: throw Fault{INVALID_VALUE, "an attribute that the imitation does not know"};
        }
    });
}

API int cuDevicePrimaryCtxRetain(void** context, int number) {
    return call("cuDevicePrimaryCtxRetain", [&] {
        Device& device = device_number(number);
        if (device.failed) throw Fault{device.failed, ""};
        if (device.retained++ == 0) device.context = Handle(made(all().contexts, Context{number}));
        *context = reinterpret_cast<void*>(device.context);
    });
}

API int cuDevicePrimaryCtxRelease_v2(int number) {
    return call("cuDevicePrimaryCtxRelease", [&] {
        Device& device = device_number(number);
        if (device.retained == 0) throw Fault{INVALID_CONTEXT, "the context is not retained"};
        if (--device.retained > 0) return;
        // With the context goes all that is in it, which nobody may count on.
        Everything& e = all();
        const Handle context = device.context;
        if (device.failed == 0) {
            auto of_it = [&](auto& among) {
                return std::any_of(among.begin(), among.end(), [&](auto& one) { return one.second.context == context; });
            };
            if (of_it(e.streams) || of_it(e.modules) || of_it(e.execs) || of_it(e.blas) || of_it(e.dnn))
                note_mistake("the context goes before what is in it");
            for (auto& one : e.memory)
                if (one.second.device == number) {
                    note_mistake("the context goes before its memory");
                    break;
                }
        }
        e.contexts.erase(context);
        for (auto place = e.streams.begin(); place != e.streams.end();)
            place = place->second.context == context ? e.streams.erase(place) : std::next(place);
        device.context = 0;
    });
}

API int cuCtxGetCurrent(void** context) {
    return call("cuCtxGetCurrent", [&] {
        must_have_started();
        *context = reinterpret_cast<void*>(current);
    });
}

API int cuCtxSetCurrent(void* context) {
    return call("cuCtxSetCurrent", [&] {
        must_have_started();
        if (context) find(all().contexts, context, "context");
        current = Handle(context);
        if (context) here();
    });
}

API int cuCtxSynchronize() {
    return call("cuCtxSynchronize", [&] {
        Device& device = here();
        no_capture();
        drain_all(device);
    });
}

API int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
    return call("cuMemGetInfo", [&] {
        Device& device = here();
        *free = device.total - device.used;
        *total = device.total;
    });
}

API int cuMemAlloc_v2(Address* address, std::size_t size) {
    return call("cuMemAlloc", [&] {
        Device& device = here();
        no_capture();
        *address = allocate(device, size);
    });
}

API int cuMemFree_v2(Address address) {
    return call("cuMemFree", [&] {
        here();
        no_capture();
        begin_giving_back(address);
        // It waits for nobody: what a stream does with it later is a mistake.
        give_back(address);
    });
}

API int cuMemAllocAsync(Address* address, std::size_t size, void* handle) {
    return call("cuMemAllocAsync", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        if (!setting("FAKE_CUDA_POOLS", 1)) throw Fault{801, "there are no pools"};
        *address = allocate(here(), size);
    });
}

API int cuMemFreeAsync(Address address, void* handle) {
    return call("cuMemFreeAsync", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        begin_giving_back(address);
        ask(stream, [=] { give_back(address); });
    });
}

API int cuMemsetD8Async(Address address, unsigned char value, std::size_t count, void* handle) {
    return call("cuMemsetD8Async", [&] {
        Stream& stream = stream_here(handle);
        Device* device = &here();
        ask(stream, [=] {
            in_memory(*device, address, count, "what is set");
            std::memset(reinterpret_cast<void*>(address), value, count);
        });
    });
}

API int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t count, void* handle) {
    return call("cuMemcpyHtoDAsync", [&] {
        Stream& stream = stream_here(handle);
        Device* device = &here();
        no_capture(&stream);
        // Memory that is not pinned is copied before the call returns.
        auto bytes = static_cast<const unsigned char*>(from);
        auto staged = std::make_shared<std::vector<unsigned char>>(bytes, bytes + count);
        ask(stream, [=] {
            in_memory(*device, to, count, "where a copy goes");
            if (count) std::memcpy(reinterpret_cast<void*>(to), staged->data(), count);
        });
    });
}

API int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t count, void* handle) {
    return call("cuMemcpyDtoHAsync", [&] {
        Stream& stream = stream_here(handle);
        Device* device = &here();
        no_capture(&stream);
        ask(stream, [=] {
            in_memory(*device, from, count, "what is copied");
            if (count) std::memcpy(to, reinterpret_cast<const void*>(from), count);
        });
    });
}

API int cuStreamCreate(void** stream, unsigned flags) {
    return call("cuStreamCreate", [&] {
        here();
        if (flags > 1) throw Fault{INVALID_VALUE, "flags"};
        Stream fresh;
        fresh.context = current;
        *stream = made(all().streams, std::move(fresh));
    });
}

API int cuStreamDestroy_v2(void* handle) {
    return call("cuStreamDestroy", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        drain(stream);
        all().streams.erase(Handle(handle));
    });
}

API int cuStreamSynchronize(void* handle) {
    return call("cuStreamSynchronize", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        drain(stream);
    });
}

API int cuStreamBeginCapture_v2(void* handle, int mode) {
    return call("cuStreamBeginCapture", [&] {
        Stream& stream = stream_here(handle);
        if (mode != 1) throw Fault{INVALID_VALUE, "the imitation knows captures of one thread alone"};
        if (stream.captures) throw Fault{ILLEGAL_STATE, "the stream records already"};
        stream.captures = true;
        stream.invalidated = false;
        stream.capturer = std::this_thread::get_id();
        stream.noted.clear();
    });
}

API int cuStreamEndCapture(void* handle, void** graph) {
    return call("cuStreamEndCapture", [&] {
        *graph = nullptr;
        Stream& stream = stream_here(handle);
        if (!stream.captures) throw Fault{ILLEGAL_STATE, "the stream does not record"};
        if (stream.capturer != std::this_thread::get_id())
            throw Fault{CAPTURE_WRONG_THREAD, "another thread than the one that records"};
        stream.captures = false;
        auto noted = std::make_shared<std::vector<Operation>>(std::move(stream.noted));
        stream.noted.clear();
        if (stream.invalidated) throw Fault{CAPTURE_INVALIDATED, ""};
        *graph = made(all().graphs, Nodes(noted));
    });
}

API int cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long flags) {
    return call("cuGraphInstantiate", [&] {
        here();
        if (flags != 0) throw Fault{INVALID_VALUE, "flags"};
        *exec = made(all().execs, Exec{current, find(all().graphs, graph, "graph")});
        ++all().counts["graphs"];
    });
}

API int cuGraphUpload(void* exec, void* handle) {
    return call("cuGraphUpload", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        same_context(find(all().execs, exec, "exec").context, "the graph");
    });
}

API int cuGraphLaunch(void* exec, void* handle) {
    return call("cuGraphLaunch", [&] {
        Stream& stream = stream_here(handle);
        no_capture(&stream);
        const Exec& found = find(all().execs, exec, "exec");
        same_context(found.context, "the graph");
        ++all().counts["replays"];
        for (const Operation& operation : *found.nodes) {
            Nodes nodes = found.nodes;
            ask(stream, [nodes, &operation] { operation(); });
        }
    });
}

API int cuGraphExecDestroy(void* exec) {
    return call("cuGraphExecDestroy", [&] {
        find(all().execs, exec, "exec");
        all().execs.erase(Handle(exec));
    });
}

API int cuGraphDestroy(void* graph) {
    return call("cuGraphDestroy", [&] {
        find(all().graphs, graph, "graph");
        all().graphs.erase(Handle(graph));
    });
}

// What NVRTC makes: a mark, the length of what follows, the architecture, and the names of all kernels.
constexpr char IMAGE[] = "machine code of no machine";

API int cuModuleLoadData(void** module, const void* image) {
    return call("cuModuleLoadData", [&] {
        here();
        no_capture();
        auto bytes = static_cast<const char*>(image);
        if (std::memcmp(bytes, IMAGE, sizeof IMAGE)) throw Fault{INVALID_IMAGE, "an image that NVRTC did not make"};
        if (std::memcmp(bytes + sizeof IMAGE, "sm_90\n", 6)) throw Fault{NO_BINARY, "an image for another device"};
        *module = made(all().modules, Module{current, {}});
    });
}

API int cuModuleGetFunction(void** function, void* handle, const char* name) {
    return call("cuModuleGetFunction", [&] {
        here();
        Module& module = find(all().modules, handle, "module");
        same_context(module.context, "the module");
        const Kernel* kernel = find_kernel(name);
        if (!kernel) throw Fault{NOT_FOUND, std::string("there is no kernel ") + name};
        *function = made(all().functions, Function{current, kernel});
        module.functions.push_back(Handle(*function));
    });
}

API int cuModuleUnload(void* handle) {
    return call("cuModuleUnload", [&] {
        here();
        Module& module = find(all().modules, handle, "module");
        same_context(module.context, "the module");
        for (Handle function : module.functions) all().functions.erase(function);
        all().modules.erase(Handle(handle));
    });
}

static int launch(const char* by, bool cooperative, void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                  unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream_handle,
                  void** arguments, void** extra) {
    return call(by, [&] {
        Stream& stream = stream_here(stream_handle);
        Device* device = &here();
        const Function& function = find(all().functions, handle, "function");
        same_context(function.context, "the function");
        const Kernel* kernel = function.kernel;
        const std::string name = kernel->name;
        auto within = [](unsigned value, unsigned most) { return value >= 1 && value <= most; };
        if (!within(grid_x, 0x7fffffff) || !within(grid_y, 65535) || !within(grid_z, 65535))
            throw Fault{INVALID_VALUE, name + " has a grid that no device takes"};
        if (!within(block_x, 1024) || !within(block_y, 1024) || !within(block_z, 64) || block_x * block_y * block_z > 1024)
            throw Fault{INVALID_VALUE, name + " has a block that no device takes"};
        if (shared_bytes != 0 || extra) throw Fault{INVALID_VALUE, name + " has what no kernel here has"};
        if (cooperative && std::size_t(grid_x) * grid_y * grid_z > MULTIPROCESSORS)
            throw Fault{TOO_LARGE, name + " has more blocks than run at the same time"};
        const std::size_t count = kernel->sizes.size();
        auto values = std::make_shared<std::vector<std::vector<unsigned char>>>();
        for (std::size_t i = 0; i < count; ++i) {
            if (!arguments[i]) throw Fault{INVALID_VALUE, name + " takes more arguments"};
            auto bytes = static_cast<const unsigned char*>(arguments[i]);
            values->emplace_back(bytes, bytes + kernel->sizes[i]);
        }
        // The caller's array has 16 places, of which those behind the arguments are null.
        if (count < 16 && arguments[count]) throw Fault{INVALID_VALUE, name + " takes fewer arguments"};
        all().launched.insert(name);
        ask(stream, [=] {
            std::vector<void*> places;
            for (std::size_t i = 0; i < count; ++i) {
                places.push_back((*values)[i].data());
                Address address = 0;
                if (kernel->pointers[i]) std::memcpy(&address, places[i], 8);
                if (address) in_memory(*device, address, 1, "argument " + std::to_string(i) + " of " + name);
            }
            try {
                kernel->run({grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, cooperative, places.data());
            } catch (const std::exception& error) {
                throw Fault{LAUNCH_FAILED, name + ": " + error.what()};
            }
        });
    });
}

API int cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                       unsigned block_z, unsigned shared_bytes, void* stream, void** arguments, void** extra) {
    return launch("cuLaunchKernel", false, handle, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes, stream,
                  arguments, extra);
}

API int cuLaunchCooperativeKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                                  unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream,
                                  void** arguments) {
    return launch("cuLaunchCooperativeKernel", true, handle, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                  stream, arguments, nullptr);
}

// ---------------------------------------------------------------------------------------------------------- cuBLAS

// Its results in place of the driver's.
static int blas_result(int result) {
    switch (result) {
        case 0: return 0;
        case INVALID_VALUE: return 7;
        case INVALID_HANDLE: return 1;
        default: return 13;
    }
}

API int cublasGetProperty(int kind, int* value) {
    *value = kind == 0 ? 13 : kind == 1 ? 1 : 0;
    return 0;
}

API int cublasCreate_v2(void** handle) {
    return blas_result(call("cublasCreate", [&] {
        here();
        no_capture();
        *handle = made(all().blas, Blas{current});
    }));
}

static Blas& blas_here(void* handle) {
    here();
    Blas& blas = find(all().blas, handle, "cuBLAS handle");
    same_context(blas.context, "the cuBLAS handle");
    return blas;
}

API int cublasDestroy_v2(void* handle) {
    return blas_result(call("cublasDestroy", [&] {
        blas_here(handle);
        no_capture();
        all().blas.erase(Handle(handle));
    }));
}

API int cublasSetStream_v2(void* handle, void* stream) {
    return blas_result(call("cublasSetStream", [&] {
        Blas& blas = blas_here(handle);
        stream_here(stream);
        blas.stream = Handle(stream);
        // The workspace goes back to the library's own.
        blas.workspace = 0;
        blas.workspace_size = 0;
    }));
}

API int cublasSetWorkspace_v2(void* handle, void* workspace, std::size_t size) {
    return blas_result(call("cublasSetWorkspace", [&] {
        Blas& blas = blas_here(handle);
        if (Address(workspace) % 256) throw Fault{INVALID_VALUE, "a workspace that is not aligned"};
        in_memory(here(), Address(workspace), size, "the workspace");
        blas.workspace = Address(workspace);
        blas.workspace_size = size;
    }));
}

// C = alpha op(A) op(B) + beta C, all by columns: op(A) is m x k, op(B) k x n, C m x n.
API int cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int type_a,
                     int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int compute,
                     int algorithm) {
    return blas_result(call("cublasGemmEx", [&] {
        const Blas blas = blas_here(handle);
        Device* device = &here();
        if (!blas.stream) throw Fault{INVALID_VALUE, "no stream"};
        Stream& stream = stream_here(reinterpret_cast<void*>(blas.stream));
        if (m < 0 || n < 0 || k < 0) throw Fault{INVALID_VALUE, "a negative size"};
        if (type_a != 0 || type_b != 0 || type_c != 0) throw Fault{INVALID_VALUE, "the imitation knows f32 alone"};
        if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1) throw Fault{INVALID_VALUE, "an operation"};
        if (compute != 68 && compute != 77) throw Fault{INVALID_VALUE, "a way of computing that the imitation does not know"};
        if (algorithm != -1) throw Fault{INVALID_VALUE, "an algorithm that the imitation does not know"};
        if (lda < std::max(1, op_a ? k : m) || ldb < std::max(1, op_b ? n : k) || ldc < std::max(1, m))
            throw Fault{INVALID_VALUE, "a leading dimension that is too small"};
        if (!blas.workspace && stream.captures) throw Fault{CAPTURE_UNSUPPORTED, "a workspace would be made while it records"};
        const float factor_a = *static_cast<const float*>(alpha), factor_c = *static_cast<const float*>(beta);
        const bool tf32 = compute == 77;
        ask(stream, [=] {
            auto whole = [&](const void* matrix, int rows, int columns, int leading, const char* what) {
                if (rows == 0 || columns == 0) return;
                in_memory(*device, Address(matrix), 4 * (std::size_t(columns - 1) * leading + rows), what);
            };
            if (blas.workspace) {
                in_memory(*device, blas.workspace, blas.workspace_size, "the workspace of cuBLAS");
                use_workspace(blas.workspace, blas.workspace_size);
            }
            whole(a, op_a ? k : m, op_a ? m : k, lda, "A of a product");
            whole(b, op_b ? n : k, op_b ? k : n, ldb, "B of a product");
            whole(c, m, n, ldc, "C of a product");
            auto of_a = static_cast<const float*>(a);
            auto of_b = static_cast<const float*>(b);
            auto of_c = static_cast<float*>(c);
            for (int column = 0; column < n; ++column)
                for (int row = 0; row < m; ++row) {
                    double sum = 0.0;
                    for (int inner = 0; inner < k; ++inner) {
                        const std::size_t in_a = op_a ? std::size_t(row) * lda + inner : std::size_t(inner) * lda + row;
                        const std::size_t in_b = op_b ? std::size_t(inner) * ldb + column : std::size_t(column) * ldb + inner;
                        sum += factor(of_a, in_a, tf32) * factor(of_b, in_b, tf32);
                    }
                    float& place = of_c[std::size_t(column) * ldc + row];
                    place = float(factor_a * sum + (factor_c == 0.0f ? 0.0 : double(factor_c) * place));
                }
        });
    }));
}

// ----------------------------------------------------------------------------------------------------------- NVRTC

API int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 1;
    return 0;
}

static int nvrtc_result(int result) { return result == INVALID_HANDLE ? 4 : result; }

API int nvrtcCreateProgram(void** program, const char* source, const char*, int headers, const char* const*,
                           const char* const*) {
    return nvrtc_result(call("nvrtcCreateProgram", [&] {
        if (headers) throw Fault{3, "headers"};
        *program = made(all().programs, Program{source, "", {}});
    }));
}

API int nvrtcCompileProgram(void* handle, int count, const char* const* options) {
    return nvrtc_result(call("nvrtcCompileProgram", [&] {
        Program& program = find(all().programs, handle, "program");
        ++all().counts["compiled"];
        std::string architecture;
        for (int i = 0; i < count; ++i) {
            const std::string option = options[i], wanted = "--gpu-architecture=";
            if (option.rfind(wanted, 0) == 0) architecture = option.substr(wanted.size());
            else if (option != "--std=c++17" && option != "--fmad=false" && option != "-Xptxas=-v" &&
                     option != "--device-as-default-execution-space") {
                program.log = "nvrtc: error: invalid value for " + option + "\n";
                throw Fault{5, "an option that the imitation does not know"};
            }
        }
        if (const char* said = std::getenv("FAKE_CUDA_NVRTC_FAILS")) {
            program.log = said;
            throw Fault{6, ""};
        }
        // It knows no headers.
        if (program.source.find("#include") != std::string::npos) throw Fault{6, "a source with a header"};
        const std::string body = architecture + "\n" + program.source;
        program.image.assign(IMAGE, IMAGE + sizeof IMAGE);
        program.image.insert(program.image.end(), body.begin(), body.end());
    }));
}

API int nvrtcGetProgramLogSize(void* handle, std::size_t* size) {
    return nvrtc_result(call("nvrtcGetProgramLogSize", [&] { *size = find(all().programs, handle, "program").log.size() + 1; }));
}

API int nvrtcGetProgramLog(void* handle, char* log) {
    return nvrtc_result(call("nvrtcGetProgramLog", [&] {
        const std::string& text = find(all().programs, handle, "program").log;
        std::memcpy(log, text.c_str(), text.size() + 1);
    }));
}

API int nvrtcGetCUBINSize(void* handle, std::size_t* size) {
    return nvrtc_result(call("nvrtcGetCUBINSize", [&] { *size = find(all().programs, handle, "program").image.size(); }));
}

API int nvrtcGetCUBIN(void* handle, char* image) {
    return nvrtc_result(call("nvrtcGetCUBIN", [&] {
        const auto& bytes = find(all().programs, handle, "program").image;
        std::memcpy(image, bytes.data(), bytes.size());
    }));
}

API int nvrtcDestroyProgram(void** handle) {
    return nvrtc_result(call("nvrtcDestroyProgram", [&] {
        find(all().programs, *handle, "program");
        all().programs.erase(Handle(*handle));
        *handle = nullptr;
    }));
}

// ----------------------------------------------------------------------------------------------------------- cuDNN

constexpr int DNN_BAD_PARAM = 2000, DNN_NOT_SUPPORTED = 3000;
constexpr int TENSOR_OP_MATH = 1, FMA_MATH = 3;

static int dnn_result(int result) {
    switch (result) {
        case 0: return 0;
        case INVALID_VALUE:
        case INVALID_HANDLE: return DNN_BAD_PARAM;
        case DNN_NOT_SUPPORTED: return DNN_NOT_SUPPORTED;
        default: return 5000;
    }
}

API std::size_t cudnnGetVersion() { return std::size_t(setting("FAKE_CUDA_CUDNN", 91002)); }

API int cudnnCreate(void** handle) {
    return dnn_result(call("cudnnCreate", [&] {
        here();
        no_capture();
        *handle = made(all().dnn, Dnn{current});
    }));
}

static Dnn& dnn_here(void* handle) {
    here();
    Dnn& dnn = find(all().dnn, handle, "cuDNN handle");
    same_context(dnn.context, "the cuDNN handle");
    return dnn;
}

API int cudnnDestroy(void* handle) {
    return dnn_result(call("cudnnDestroy", [&] {
        dnn_here(handle);
        no_capture();
        all().dnn.erase(Handle(handle));
    }));
}

API int cudnnSetStream(void* handle, void* stream) {
    return dnn_result(call("cudnnSetStream", [&] {
        Dnn& dnn = dnn_here(handle);
        stream_here(stream);
        dnn.stream = Handle(stream);
    }));
}

template <class T>
static int create(void** handle, std::map<Handle, T>& among) {
    return dnn_result(call("cudnnCreateDescriptor", [&] { *handle = made(among, T{}); }));
}

template <class T>
static int destroy(void* handle, std::map<Handle, T>& among) {
    return dnn_result(call("cudnnDestroyDescriptor", [&] {
        find(among, handle, "descriptor");
        among.erase(Handle(handle));
    }));
}

API int cudnnCreateTensorDescriptor(void** handle) { return create(handle, all().tensors); }
API int cudnnDestroyTensorDescriptor(void* handle) { return destroy(handle, all().tensors); }
API int cudnnCreateFilterDescriptor(void** handle) { return create(handle, all().filters); }
API int cudnnDestroyFilterDescriptor(void* handle) { return destroy(handle, all().filters); }
API int cudnnCreateConvolutionDescriptor(void** handle) { return create(handle, all().convolutions); }
API int cudnnDestroyConvolutionDescriptor(void* handle) { return destroy(handle, all().convolutions); }

// Of n by c by h by w numbers; format 0 has the columns innermost, format 1 the channels.
static void lay_out(Layout& layout, int format, int type, int n, int c, int h, int w) {
    if (type != 0 || format < 0 || format > 1) throw Fault{DNN_NOT_SUPPORTED, "the imitation knows f32 in NCHW and NHWC alone"};
    if (n < 1 || c < 1 || h < 1 || w < 1) throw Fault{INVALID_VALUE, "a size that is not positive"};
    layout.set = true;
    const int size[4] = {n, c, h, w};
    std::copy(size, size + 4, layout.size);
    const std::size_t last = std::size_t(c) * h * w;
    const std::size_t planes[4] = {last, std::size_t(h) * w, std::size_t(w), 1};
    const std::size_t pixels[4] = {last, 1, std::size_t(w) * c, std::size_t(c)};
    std::copy(format ? pixels : planes, (format ? pixels : planes) + 4, layout.stride);
}

API int cudnnSetTensor4dDescriptor(void* handle, int format, int type, int n, int c, int h, int w) {
    return dnn_result(call("cudnnSetTensor4dDescriptor", [&] {
        lay_out(find(all().tensors, handle, "tensor"), format, type, n, c, h, w);
    }));
}

API int cudnnSetFilter4dDescriptor(void* handle, int type, int format, int k, int c, int h, int w) {
    return dnn_result(call("cudnnSetFilter4dDescriptor", [&] {
        lay_out(find(all().filters, handle, "filter"), format, type, k, c, h, w);
    }));
}

API int cudnnSetConvolution2dDescriptor(void* handle, int pad_h, int pad_w, int step_h, int step_w, int dilation_h,
                                        int dilation_w, int mode, int type) {
    return dnn_result(call("cudnnSetConvolution2dDescriptor", [&] {
        Convolution& how = find(all().convolutions, handle, "convolution");
        if (pad_h < 0 || pad_w < 0 || step_h < 1 || step_w < 1 || dilation_h < 1 || dilation_w < 1 || mode < 0 || mode > 1)
            throw Fault{INVALID_VALUE, "a size of a convolution"};
        if (type != 0) throw Fault{DNN_NOT_SUPPORTED, "the imitation knows f32 alone"};
        how = Convolution{true, {pad_h, pad_w}, {step_h, step_w}, {dilation_h, dilation_w}, mode, how.math};
    }));
}

API int cudnnSetConvolutionMathType(void* handle, int math) {
    return dnn_result(call("cudnnSetConvolutionMathType", [&] {
        if (math < 0 || math > 3) throw Fault{INVALID_VALUE, "a math type"};
        find(all().convolutions, handle, "convolution").math = math;
    }));
}

struct Problem {
    Layout x, w, y;
    Convolution how;
};

static Problem problem(void* x, void* w, void* y, void* how) {
    Problem p{find(all().tensors, x, "tensor"), find(all().filters, w, "filter"), find(all().tensors, y, "tensor"),
              find(all().convolutions, how, "convolution")};
    if (!p.x.set || !p.w.set || !p.y.set || !p.how.set) throw Fault{INVALID_VALUE, "a descriptor that was not set"};
    bool fits = p.x.size[1] == p.w.size[1] && p.y.size[0] == p.x.size[0] && p.y.size[1] == p.w.size[0];
    for (int side = 0; side < 2; ++side) {
        const int reach = (p.w.size[2 + side] - 1) * p.how.dilation[side] + 1;
        fits &= p.y.size[2 + side] == 1 + (p.x.size[2 + side] + 2 * p.how.pad[side] - reach) / p.how.step[side];
    }
    if (!fits) throw Fault{INVALID_VALUE, "descriptors that do not belong together"};
    return p;
}

enum Pass { OUTPUT, INPUT, WEIGHT };

// An algorithm of a pass, as the imitation has them: the fastest first, which are not for everybody.
struct Algorithm {
    int number;
    bool supported, deterministic;
    std::size_t memory;
};

static const std::vector<Algorithm>& algorithms(Pass pass) {
    static const std::vector<Algorithm> of[3] = {
        {{7, false, true, 0}, {4, true, true, std::size_t(3) << 30}, {5, true, false, 64}, {1, true, true, 2000}, {0, true, true, 0}},
        {{0, true, false, 0}, {2, true, true, std::size_t(3) << 30}, {1, true, true, 6000}, {4, false, true, 0}},
        {{3, true, false, 0}, {0, true, false, 0}, {2, true, true, std::size_t(3) << 30}, {1, true, true, 3000}}};
    return of[pass];
}

// Tensor cores need more room.
static std::size_t room_of(const Algorithm& algorithm, int math) {
    return math == FMA_MATH || algorithm.memory == 0 ? algorithm.memory : algorithm.memory + 512;
}

static const Algorithm& algorithm_of(Pass pass, int number) {
    for (const Algorithm& one : algorithms(pass))
        if (one.number == number && one.supported) return one;
    throw Fault{DNN_NOT_SUPPORTED, "an algorithm that is not supported"};
}

struct Performance {
    int algorithm, status;
    float time;
    std::size_t memory;
    int determinism, math, reserved[3];
};

// Every algorithm is told once for each kind of mathematics that the descriptor lets it have, with the room of that kind.
static void rank(Pass pass, const Problem& p, int asked, int* count, Performance* found) {
    if (asked < 1 || !count || !found) throw Fault{INVALID_VALUE, "no room for answers"};
    *count = 0;
    const std::vector<int> kinds = p.how.math == FMA_MATH ? std::vector<int>{FMA_MATH} : std::vector<int>{FMA_MATH, TENSOR_OP_MATH};
    for (bool supported : {true, false})
        for (const Algorithm& one : algorithms(pass))
            for (int math : kinds) {
                if (one.supported != supported || *count == asked) continue;
                found[(*count)++] = Performance{one.number, one.supported ? 0 : DNN_NOT_SUPPORTED, one.supported ? 1.0f : -1.0f,
                                                room_of(one, math), one.deterministic, math, {}};
            }
}

API int cudnnGetConvolutionForwardAlgorithm_v7(void* handle, void* x, void* w, void* how, void* y, int asked, int* count,
                                               Performance* found) {
    return dnn_result(call("cudnnGetConvolutionForwardAlgorithm_v7", [&] {
        dnn_here(handle);
        rank(OUTPUT, problem(x, w, y, how), asked, count, found);
    }));
}

API int cudnnGetConvolutionBackwardDataAlgorithm_v7(void* handle, void* w, void* dy, void* how, void* dx, int asked, int* count,
                                                    Performance* found) {
    return dnn_result(call("cudnnGetConvolutionBackwardDataAlgorithm_v7", [&] {
        dnn_here(handle);
        rank(INPUT, problem(dx, w, dy, how), asked, count, found);
    }));
}

API int cudnnGetConvolutionBackwardFilterAlgorithm_v7(void* handle, void* x, void* dy, void* how, void* dw, int asked,
                                                      int* count, Performance* found) {
    return dnn_result(call("cudnnGetConvolutionBackwardFilterAlgorithm_v7", [&] {
        dnn_here(handle);
        rank(WEIGHT, problem(x, dw, dy, how), asked, count, found);
    }));
}

static int workspace(Pass pass, void* handle, void* x, void* w, void* y, void* how, int number, std::size_t* size) {
    return dnn_result(call("cudnnGetConvolutionWorkspaceSize", [&] {
        dnn_here(handle);
        *size = room_of(algorithm_of(pass, number), problem(x, w, y, how).how.math);
    }));
}

API int cudnnGetConvolutionForwardWorkspaceSize(void* handle, void* x, void* w, void* how, void* y, int number, std::size_t* size) {
    return workspace(OUTPUT, handle, x, w, y, how, number, size);
}

API int cudnnGetConvolutionBackwardDataWorkspaceSize(void* handle, void* w, void* dy, void* how, void* dx, int number,
                                                     std::size_t* size) {
    return workspace(INPUT, handle, dx, w, dy, how, number, size);
}

API int cudnnGetConvolutionBackwardFilterWorkspaceSize(void* handle, void* x, void* dy, void* how, void* dw, int number,
                                                       std::size_t* size) {
    return workspace(WEIGHT, handle, x, dw, dy, how, number, size);
}

// result = alpha times the sum of left and right over all places where they meet + beta times result.
static int convolve(Pass pass, void* handle, const void* alpha, const void* beta, void* x_desc, void* w_desc, void* y_desc,
                    void* how_desc, int number, void* room, std::size_t room_size, const void* left, const void* right,
                    void* result) {
    return dnn_result(call("cudnnConvolution", [&] {
        const Dnn dnn = dnn_here(handle);
        Device* device = &here();
        if (!dnn.stream) throw Fault{INVALID_VALUE, "no stream"};
        if (setting("FAKE_CUDA_CUDNN_REFUSES", 0)) throw Fault{DNN_NOT_SUPPORTED, ""};
        Stream& stream = stream_here(reinterpret_cast<void*>(dnn.stream));
        const Problem p = problem(x_desc, w_desc, y_desc, how_desc);
        const Algorithm algorithm = algorithm_of(pass, number);
        if (room_of(algorithm, p.how.math) > room_size) throw Fault{INVALID_VALUE, "a workspace that is too small"};
        if (!algorithm.deterministic) note_mistake("an algorithm that gives other bits every time");
        const float a = *static_cast<const float*>(alpha), b = *static_cast<const float*>(beta);
        const bool tf32 = p.how.math != FMA_MATH;
        ask(stream, [=] {
            if (algorithm.memory) {
                in_memory(*device, Address(room), room_size, "the workspace of cuDNN");
                use_workspace(Address(room), room_size);
            }
            const Layout& of_left = pass == INPUT ? p.y : p.x;
            const Layout& of_right = pass == WEIGHT ? p.y : p.w;
            const Layout& of_result = pass == OUTPUT ? p.y : pass == INPUT ? p.x : p.w;
            in_memory(*device, Address(left), of_left.bytes(), "an operand of a convolution");
            in_memory(*device, Address(right), of_right.bytes(), "an operand of a convolution");
            in_memory(*device, Address(result), of_result.bytes(), "the result of a convolution");
            auto l = static_cast<const float*>(left);
            auto r = static_cast<const float*>(right);
            auto into = static_cast<float*>(result);
            std::vector<double> sums(of_result.bytes() / 4);
            for (int n = 0; n < p.y.size[0]; ++n)
                for (int k = 0; k < p.y.size[1]; ++k)
                    for (int row = 0; row < p.y.size[2]; ++row)
                        for (int column = 0; column < p.y.size[3]; ++column)
                            for (int i = 0; i < p.w.size[2]; ++i)
                                for (int j = 0; j < p.w.size[3]; ++j) {
                                    const int h = row * p.how.step[0] - p.how.pad[0] + i * p.how.dilation[0];
                                    const int v = column * p.how.step[1] - p.how.pad[1] + j * p.how.dilation[1];
                                    if (h < 0 || v < 0 || h >= p.x.size[2] || v >= p.x.size[3]) continue;
                                    // Mode 0 turns the filter round.
                                    const int fi = p.how.mode ? i : p.w.size[2] - 1 - i;
                                    const int fj = p.how.mode ? j : p.w.size[3] - 1 - j;
                                    for (int c = 0; c < p.x.size[1]; ++c) {
                                        const std::size_t x = p.x.at(n, c, h, v), w = p.w.at(k, c, fi, fj);
                                        const std::size_t y = p.y.at(n, k, row, column);
                                        const std::size_t from_left = pass == INPUT ? y : x;
                                        const std::size_t from_right = pass == WEIGHT ? y : w;
                                        sums[pass == OUTPUT ? y : pass == INPUT ? x : w] +=
                                            factor(l, from_left, tf32) * factor(r, from_right, tf32);
                                    }
                                }
            for (std::size_t i = 0; i < sums.size(); ++i)
                into[i] = float(a * sums[i] + (b == 0.0f ? 0.0 : double(b) * into[i]));
        });
    }));
}

API int cudnnConvolutionForward(void* handle, const void* alpha, void* x_desc, const void* x, void* w_desc, const void* w,
                                void* how, int algorithm, void* room, std::size_t size, const void* beta, void* y_desc, void* y) {
    return convolve(OUTPUT, handle, alpha, beta, x_desc, w_desc, y_desc, how, algorithm, room, size, x, w, y);
}

API int cudnnConvolutionBackwardData(void* handle, const void* alpha, void* w_desc, const void* w, void* dy_desc,
                                     const void* dy, void* how, int algorithm, void* room, std::size_t size, const void* beta,
                                     void* dx_desc, void* dx) {
    return convolve(INPUT, handle, alpha, beta, dx_desc, w_desc, dy_desc, how, algorithm, room, size, dy, w, dx);
}

API int cudnnConvolutionBackwardFilter(void* handle, const void* alpha, void* x_desc, const void* x, void* dy_desc,
                                       const void* dy, void* how, int algorithm, void* room, std::size_t size,
                                       const void* beta, void* dw_desc, void* dw) {
    return convolve(WEIGHT, handle, alpha, beta, x_desc, dw_desc, dy_desc, how, algorithm, room, size, x, dy, dw);
}
