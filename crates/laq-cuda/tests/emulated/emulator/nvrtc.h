// The fake NVRTC.
#pragma once

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
                throw Fault{5, "an unknown option"};
            }
        }
        if (const char* message = std::getenv("FAKE_CUDA_NVRTC_FAILS")) {
            program.log = message;
            throw Fault{6, ""};
        }
        // There are no headers.
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
