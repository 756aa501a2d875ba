// The fake driver.
#pragma once

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
        std::strncpy(name, "Fake GPU", length);
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
            default: throw Fault{INVALID_VALUE, "an unknown attribute"};
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
        // The context destroys all that belongs to it.
        Everything& e = all();
        const Handle context = device.context;
        if (device.failed == 0) {
            auto of_it = [&](auto& among) {
                return std::any_of(among.begin(), among.end(), [&](auto& one) { return one.second.context == context; });
            };
            if (of_it(e.streams) || of_it(e.modules) || of_it(e.execs) || of_it(e.blas) || of_it(e.dnn))
                note_mistake("the context is destroyed before its objects");
            for (auto& one : e.memory)
                if (one.second.device == number) {
                    note_mistake("the context is destroyed before its memory");
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
        // Without synchronization: later use by a stream is an error.
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
        // Pageable memory is read before the call returns.
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
        if (mode != 1) throw Fault{INVALID_VALUE, "the fake knows captures of one thread alone"};
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
        if (!stream.captures) throw Fault{ILLEGAL_STATE, "no capture in progress"};
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

// The image that NVRTC produces: a magic number, the length of the rest, the architecture, and the names of all kernels.
constexpr char IMAGE[] = "machine code of no machine";

API int cuModuleLoadData(void** module, const void* image) {
    return call("cuModuleLoadData", [&] {
        here();
        no_capture();
        auto bytes = static_cast<const char*>(image);
        if (std::memcmp(bytes, IMAGE, sizeof IMAGE)) throw Fault{INVALID_IMAGE, "not an image of NVRTC"};
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
            throw Fault{INVALID_VALUE, name + " has an invalid grid"};
        if (!within(block_x, 1024) || !within(block_y, 1024) || !within(block_z, 64) || block_x * block_y * block_z > 1024)
            throw Fault{INVALID_VALUE, name + " has an invalid block"};
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
        // The caller's array has 16 entries; those after the arguments are null.
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
