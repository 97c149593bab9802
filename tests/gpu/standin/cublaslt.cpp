// A stand-in for NVIDIA's libcublasLt.so.13: the functions that are used, with the names, types and statuses of cublasLt.h.
#include "blas.h"

using namespace standin;

enum : int { NOT_INITIALIZED = 1, BAD_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum : int { F32 = 0, BF16 = 14, COMPUTE_F32 = 68 };

static int live = 0; // descriptors

// Each kind begins with its own word, by which it is known.
struct Operation {
    int magic = 0x0fe7a710, transposed[2] = {0, 0};
};
struct Layout {
    int magic = 0x1a400741, type;
    uint64_t rows, columns;
    int64_t stride;
};
struct Preference {
    int magic = 0x94ef0001;
    size_t workspace = 0;
    uint32_t alignments[4] = {256, 256, 256, 256}; // as the library assumes
};

template <class T>
static T* known(void* handle) {
    return handle && ((T*)handle)->magic == T().magic ? (T*)handle : nullptr;
}

template <class T>
static int destroy(void* handle) {
    T* found = known<T>(handle);
    if (!found) return BAD_VALUE;
    found->magic = 0;
    delete found;
    --live;
    return 0;
}

template <class T>
static int create(void** handle, T value) {
    *handle = new T(value);
    ++live;
    return 0;
}

// An algorithm, as which the program hands it back: what it was chosen for.
struct Algorithm {
    uint64_t magic, rows, columns, inputs, transposed, workspace, alignments, unused;
};
struct Choice {
    Algorithm algorithm;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Choice) == 96);

API const char* cublasLtGetStatusName(int status) {
    switch (status) {
        case BAD_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
        default: return "unrecognized status";
    }
}

API int cublasLtCreate(void** handle) {
    *handle = &live;
    return 0;
}

API int cublasLtDestroy(void* handle) {
    if (live) fail("descriptors of cuBLASLt that nobody destroyed");
    return handle == &live ? 0 : BAD_VALUE;
}

API int cublasLtMatmulDescCreate(void** handle, int compute, int scale) {
    return compute == COMPUTE_F32 && scale == F32 ? create(handle, Operation()) : NOT_SUPPORTED;
}

API int cublasLtMatmulDescSetAttribute(void* handle, int which, const void* value, size_t bytes) {
    Operation* operation = known<Operation>(handle);
    if (!operation || (which != 3 && which != 4) || bytes != sizeof(int)) return BAD_VALUE;
    operation->transposed[which - 3] = *(const int*)value;
    return 0;
}

API int cublasLtMatmulDescDestroy(void* handle) {
    return destroy<Operation>(handle);
}

API int cublasLtMatrixLayoutCreate(void** handle, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    Layout layout;
    layout.type = type, layout.rows = rows, layout.columns = columns, layout.stride = stride;
    return create(handle, layout);
}

API int cublasLtMatrixLayoutDestroy(void* handle) {
    return destroy<Layout>(handle);
}

API int cublasLtMatmulPreferenceCreate(void** handle) {
    return create(handle, Preference());
}

API int cublasLtMatmulPreferenceSetAttribute(void* handle, int which, const void* value, size_t bytes) {
    Preference* preference = known<Preference>(handle);
    if (!preference) return BAD_VALUE;
    if (which == 1 && bytes == sizeof(uint64_t)) {
        preference->workspace = *(const uint64_t*)value;
    } else if (which >= 5 && which <= 8 && bytes == sizeof(uint32_t)) {
        preference->alignments[which - 5] = *(const uint32_t*)value;
    } else {
        return BAD_VALUE;
    }
    return 0;
}

API int cublasLtMatmulPreferenceDestroy(void* handle) {
    return destroy<Preference>(handle);
}

// What of a product an algorithm depends on; nothing if types or layouts are not those of one.
static bool describe(Algorithm& out, void* operation, void* a, void* b, void* c, void* d) {
    auto* how = known<Operation>(operation);
    Layout* all[] = {known<Layout>(a), known<Layout>(b), known<Layout>(c), known<Layout>(d)};
    if (!how || !all[0] || !all[1] || !all[2] || !all[3]) return false;
    if (all[0]->type != BF16 || all[1]->type != BF16 || all[2]->type != F32 || all[3]->type != F32) return false;
    if (how->transposed[1]) return false;
    out = {0xa190, all[3]->rows, all[3]->columns, all[1]->rows, (uint64_t)how->transposed[0], 0, 0, 0};
    return true;
}

API int cublasLtMatmulAlgoGetHeuristic(void* handle, void* operation, void* a, void* b, void* c, void* d, void* preference,
                                       int wanted, Choice* choices, int* count) {
    fprintf(stderr, "stand-in: choosing an algorithm\n");
    auto* memory = known<Preference>(preference);
    if (handle != &live || !memory || wanted < 1) return BAD_VALUE;
    *count = 0;
    if (setting("STANDIN_BLAS_ALGORITHMS", 1) == 0) return NOT_SUPPORTED;
    Choice& choice = choices[0];
    if (!describe(choice.algorithm, operation, a, b, c, d)) return BAD_VALUE;
    choice.algorithm.workspace = choice.workspace = memory->workspace;
    for (int i = 0; i < 4; ++i) choice.algorithm.alignments |= (uint64_t)memory->alignments[i] << 16 * i;
    choice.status = 0;
    *count = 1;
    return 0;
}

API int cublasLtMatmul(void* handle, void* operation, const float* product, const void* a, void* a_layout, const void* b,
                       void* b_layout, const float* sum, const void* c, void* c_layout, void* d, void* d_layout,
                       const Algorithm* algorithm, void* workspace, size_t workspace_bytes, void* stream) {
    Driver& driver = driver_of("libcuda.so.1");
    auto lock = driver.lock();
    if (const int status = (int)setting("STANDIN_BLAS_STATUS", 0)) return status;
    Algorithm now;
    if (handle != &live || c != d || *product != 1 || !describe(now, operation, a_layout, b_layout, c_layout, d_layout)) {
        return BAD_VALUE;
    }
    // An algorithm that was chosen for something else.
    const size_t described = offsetof(Algorithm, workspace);
    if (memcmp(&now, algorithm, described) != 0 || algorithm->workspace > workspace_bytes) return BAD_VALUE;
    const void* pointers[] = {a, b, c, d};
    for (int i = 0; i < 4; ++i) {
        if ((uintptr_t)pointers[i] % (algorithm->alignments >> 16 * i & 0xffff) != 0) return BAD_VALUE;
    }
    if (!driver.memory().holds(workspace, workspace_bytes) || (uintptr_t)workspace % 256) return BAD_VALUE;
    const auto columns = [](const void* data, void* handle) {
        const Layout* layout = known<Layout>(handle);
        return Columns{(void*)data, (int64_t)layout->rows, (int64_t)layout->columns, layout->stride};
    };
    const bool done = queue_product(driver, stream, columns(a, a_layout), now.transposed, columns(b, b_layout), *sum,
                                    columns(d, d_layout));
    return done ? 0 : BAD_VALUE;
}
