// A stand-in for AMD's librocblas.so.5: the functions that are used, with the names, types and statuses of its headers.
#include "blas.h"

using namespace standin;

enum : int { INVALID_HANDLE_ = 1, NOT_IMPLEMENTED = 2, INVALID_POINTER = 3, INVALID_SIZE = 4 };
enum : int { F32 = 151, BF16 = 168, AS_IT_IS = 111, TRANSPOSED = 112 };

struct Library {
    void* stream = nullptr;
    bool has_workspace = false;
};

static Library* open_ = nullptr;

API const char* rocblas_status_to_string(int status) {
    switch (status) {
        case INVALID_HANDLE_: return "rocblas_status_invalid_handle";
        case NOT_IMPLEMENTED: return "rocblas_status_not_implemented";
        case INVALID_POINTER: return "rocblas_status_invalid_pointer";
        case INVALID_SIZE: return "rocblas_status_invalid_size";
        default: return "<undefined rocblas_status value>";
    }
}

API int rocblas_create_handle(Library** handle) {
    *handle = open_ = new Library;
    return 0;
}

API int rocblas_destroy_handle(Library* handle) {
    if (!handle || handle != open_) return INVALID_HANDLE_;
    delete handle;
    open_ = nullptr;
    return 0;
}

API int rocblas_set_stream(Library* handle, void* stream) {
    if (!handle || handle != open_) return INVALID_HANDLE_;
    handle->stream = stream;
    return 0;
}

API int rocblas_set_workspace(Library* handle, void* memory, size_t bytes) {
    if (!handle || handle != open_) return INVALID_HANDLE_;
    Driver& driver = driver_of("libamdhip64.so.7");
    auto lock = driver.lock();
    if (!driver.memory().holds(memory, bytes)) return INVALID_POINTER;
    handle->has_workspace = true;
    return 0;
}

API int rocblas_gemm_ex(Library* handle, int a_operation, int b_operation, int m, int n, int k, const float* product,
                        const void* a, int a_type, int a_stride, const void* b, int b_type, int b_stride,
                        const float* sum, const void* c, int c_type, int c_stride, void* d, int d_type, int d_stride,
                        int compute_type, int algorithm, int solution, unsigned flags) {
    if (!handle || handle != open_ || !handle->has_workspace) return INVALID_HANDLE_;
    if (const int status = (int)setting("STANDIN_BLAS_STATUS", 0)) return status;
    if (a_type != BF16 || b_type != BF16 || c_type != F32 || d_type != F32 || compute_type != F32) return NOT_IMPLEMENTED;
    if (algorithm != 0 || solution != 0 || flags != 0 || b_operation != AS_IT_IS) return NOT_IMPLEMENTED;
    if (a_operation != AS_IT_IS && a_operation != TRANSPOSED) return NOT_IMPLEMENTED;
    if (*product != 1 || c != d || c_stride != d_stride) return NOT_IMPLEMENTED;
    Driver& driver = driver_of("libamdhip64.so.7");
    auto lock = driver.lock();
    const bool transposed = a_operation == TRANSPOSED;
    const Columns left = {(void*)a, transposed ? k : m, transposed ? m : k, a_stride};
    const bool done = queue_product(driver, handle->stream, left, transposed, {(void*)b, k, n, b_stride}, *sum, {d, m, n, d_stride});
    return done ? 0 : INVALID_SIZE;
}
