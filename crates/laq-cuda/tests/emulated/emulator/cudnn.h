// The fake cuDNN.
#pragma once

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

// A tensor of n x c x h x w; format 0 is NCHW, format 1 NHWC.
static void lay_out(Layout& layout, int format, int type, int n, int c, int h, int w) {
    if (type != 0 || format < 0 || format > 1) throw Fault{DNN_NOT_SUPPORTED, "the fake knows f32 in NCHW and NHWC alone"};
    if (n < 1 || c < 1 || h < 1 || w < 1) throw Fault{INVALID_VALUE, "a nonpositive size"};
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
        if (type != 0) throw Fault{DNN_NOT_SUPPORTED, "the fake knows f32 alone"};
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
    if (!p.x.set || !p.w.set || !p.y.set || !p.how.set) throw Fault{INVALID_VALUE, "an uninitialized descriptor"};
    bool fits = p.x.size[1] == p.w.size[1] && p.y.size[0] == p.x.size[0] && p.y.size[1] == p.w.size[0];
    for (int side = 0; side < 2; ++side) {
        const int reach = (p.w.size[2 + side] - 1) * p.how.dilation[side] + 1;
        fits &= p.y.size[2 + side] == 1 + (p.x.size[2 + side] + 2 * p.how.pad[side] - reach) / p.how.step[side];
    }
    if (!fits) throw Fault{INVALID_VALUE, "inconsistent descriptors"};
    return p;
}

enum Pass { OUTPUT, INPUT, WEIGHT };

// The algorithms of a pass, fastest first; not all are acceptable.
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

// Tensor cores need a larger workspace.
static std::size_t room_of(const Algorithm& algorithm, int math) {
    return math == FMA_MATH || algorithm.memory == 0 ? algorithm.memory : algorithm.memory + 512;
}

static const Algorithm& algorithm_of(Pass pass, int number) {
    for (const Algorithm& one : algorithms(pass))
        if (one.number == number && one.supported) return one;
    throw Fault{DNN_NOT_SUPPORTED, "an unsupported algorithm"};
}

struct Performance {
    int algorithm, status;
    float time;
    std::size_t memory;
    int determinism, math, reserved[3];
};

// Every algorithm is listed once per math type that the descriptor permits, with its workspace.
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

// result = alpha * (left convolved with right) + beta * result.
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
        if (!algorithm.deterministic) note_mistake("a nondeterministic algorithm");
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
                                    // Mode 0 flips the filter.
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
