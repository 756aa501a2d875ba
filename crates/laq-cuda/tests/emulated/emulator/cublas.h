// The fake cuBLAS.
#pragma once

// Its error codes.
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
        // Resets the workspace to the library's own.
        blas.workspace = 0;
        blas.workspace_size = 0;
    }));
}

API int cublasSetWorkspace_v2(void* handle, void* workspace, std::size_t size) {
    return blas_result(call("cublasSetWorkspace", [&] {
        Blas& blas = blas_here(handle);
        if (Address(workspace) % 256) throw Fault{INVALID_VALUE, "an unaligned workspace"};
        in_memory(here(), Address(workspace), size, "the workspace");
        blas.workspace = Address(workspace);
        blas.workspace_size = size;
    }));
}

// C = alpha op(A) op(B) + beta C, column-major: op(A) is m x k, op(B) k x n, C m x n.
API int cublasGemmEx(void* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a, int type_a,
                     int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int compute,
                     int algorithm) {
    return blas_result(call("cublasGemmEx", [&] {
        const Blas blas = blas_here(handle);
        Device* device = &here();
        if (!blas.stream) throw Fault{INVALID_VALUE, "no stream"};
        Stream& stream = stream_here(reinterpret_cast<void*>(blas.stream));
        if (m < 0 || n < 0 || k < 0) throw Fault{INVALID_VALUE, "a negative size"};
        if (type_a != 0 || type_b != 0 || type_c != 0) throw Fault{INVALID_VALUE, "the fake knows f32 alone"};
        if (op_a < 0 || op_a > 1 || op_b < 0 || op_b > 1) throw Fault{INVALID_VALUE, "an operation"};
        if (compute != 68 && compute != 77) throw Fault{INVALID_VALUE, "an unknown compute type"};
        if (algorithm != -1) throw Fault{INVALID_VALUE, "an unknown algorithm"};
        if (lda < std::max(1, op_a ? k : m) || ldb < std::max(1, op_b ? n : k) || ldc < std::max(1, m))
            throw Fault{INVALID_VALUE, "a leading dimension that is too small"};
        if (!blas.workspace && stream.captures) throw Fault{CAPTURE_UNSUPPORTED, "an allocation of a workspace during a capture"};
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
