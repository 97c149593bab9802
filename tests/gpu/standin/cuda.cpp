// A stand-in for NVIDIA's libcuda.so.1: the functions that are used, with the names, types and statuses of cuda.h.
#include "driver.h"

using namespace standin;

// For the stand-ins of the vendor's other libraries.
API Driver* standin_driver() {
    return &driver();
}

// For tests: the most memory of a device that was ever taken.
API size_t standin_peak() {
    return driver().memory().peak();
}

typedef unsigned long long Pointer;

unsigned Driver::shared_limit_unasked() {
    return 48 * 1024;
}

static thread_local int current = -1; // the device whose context is bound, or none

// Contexts are numbered from 1, as addresses.
static void* context(int device) {
    return (void*)(intptr_t)(device + 1);
}

static const int SHARED_LIMIT = (int)setting("STANDIN_SHARED", 227 * 1024);

// What most calls begin with.
#define BOUND                     \
    auto lock = driver().lock();  \
    if (current < 0) return INVALID_CONTEXT

API int cuDriverGetVersion(int* version) {
    *version = (int)setting("STANDIN_VERSION", 13000);
    return SUCCESS;
}

API int cuInit(unsigned flags) {
    if (flags != 0) return INVALID_VALUE;
    return driver().devices == 0 ? NO_DEVICE : SUCCESS;
}

API int cuGetErrorName(int status, const char** name) {
    static const std::map<int, const char*> names = {
        {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
        {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
        {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
        {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
        {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    };
    auto found = names.find(status);
    *name = found == names.end() ? nullptr : found->second;
    return found == names.end() ? INVALID_VALUE : SUCCESS;
}

// NVIDIA's own NVRTC asks for it, and crashes where it is not there.
API int cuGetExportTable(const void** table, const void*) {
    *table = nullptr;
    return NOT_FOUND;
}

API int cuDeviceGetCount(int* count) {
    *count = driver().devices;
    return SUCCESS;
}

API int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= driver().devices) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API int cuDeviceGetName(char* name, int bytes, int device) {
    snprintf(name, (size_t)bytes, "stand-in %d", device);
    return SUCCESS;
}

API int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = driver().memory().total();
    return SUCCESS;
}

API int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 10: *value = driver().warp; break;  // WARP_SIZE
        case 16: *value = 4; break;              // MULTIPROCESSOR_COUNT
        case 75: *value = 9; break;              // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = 0; break;              // COMPUTE_CAPABILITY_MINOR
        case 97: *value = SHARED_LIMIT; break;   // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(void** result, int device) {
    *result = context(device);
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int) {
    return SUCCESS;
}

API int cuCtxGetCurrent(void** result) {
    *result = current < 0 ? nullptr : context(current);
    return SUCCESS;
}

API int cuCtxSetCurrent(void* context) {
    current = (int)(intptr_t)context - 1;
    return SUCCESS;
}

API int cuCtxSynchronize() {
    BOUND;
    return driver().synchronize_all();
}

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
    BOUND;
    *total = driver().memory().total();
    *free = driver().memory().free_on(current);
    return SUCCESS;
}

API int cuMemAlloc_v2(Pointer* pointer, size_t bytes) {
    BOUND;
    if (bytes == 0) return INVALID_VALUE;
    char* memory = driver().memory().allocate(bytes, current);
    *pointer = (Pointer)memory;
    return memory ? SUCCESS : OUT_OF_MEMORY;
}

// Waits for all work, which the real one does too.
API int cuMemFree_v2(Pointer pointer) {
    BOUND;
    const int status = driver().synchronize_all();
    return driver().memory().release((void*)pointer) ? status : (int)INVALID_VALUE;
}

API int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    BOUND;
    *pointer = driver().memory().allocate_pinned(bytes);
    return *pointer ? SUCCESS : INVALID_VALUE;
}

// Does not wait.
API int cuMemFreeHost(void* pointer) {
    BOUND;
    return driver().memory().release_pinned(pointer) ? SUCCESS : INVALID_VALUE;
}

API int cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
    BOUND;
    return driver().copy(stream, (void*)to, from, bytes, true, false);
}

API int cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
    BOUND;
    return driver().copy(stream, to, (void*)from, bytes, false, true);
}

API int cuMemcpyDtoDAsync_v2(Pointer to, Pointer from, size_t bytes, void* stream) {
    BOUND;
    return driver().copy(stream, (void*)to, (void*)from, bytes, true, true);
}

API int cuMemsetD8Async(Pointer at, unsigned char value, size_t bytes, void* stream) {
    BOUND;
    return driver().fill(stream, (void*)at, value, bytes);
}

API int cuModuleLoadData(void** module, const void* code) {
    BOUND;
    return driver().load(module, code);
}

API int cuModuleUnload(void* module) {
    BOUND;
    return driver().unload(module);
}

API int cuModuleGetFunction(void** function, void* module, const char* name) {
    BOUND;
    return driver().find_function(function, module, name);
}

API int cuFuncGetAttribute(int* value, int which, void* function) {
    BOUND;
    return driver().function_attribute(value, which, function);
}

API int cuFuncSetAttribute(void* handle, int attribute, int value) {
    BOUND;
    Function* function = driver().function(handle);
    if (!function) return INVALID_HANDLE;
    // MAX_DYNAMIC_SHARED_SIZE_BYTES
    if (attribute != 8 || value < 0 || value + (int)setting("STANDIN_OWN", 0) > SHARED_LIMIT) return INVALID_VALUE;
    function->shared_bytes = (unsigned)value;
    return SUCCESS;
}

API int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                       unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream, void** arguments,
                       void** extra) {
    BOUND;
    if (extra) return INVALID_VALUE;
    return driver().launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream,
                           arguments);
}

API int cuStreamCreate(void** stream, unsigned) {
    BOUND;
    *stream = driver().create_stream();
    return SUCCESS;
}

API int cuStreamDestroy_v2(void* stream) {
    BOUND;
    return driver().destroy_stream(stream);
}

API int cuStreamSynchronize(void* stream) {
    BOUND;
    return driver().synchronize(stream);
}

API int cuStreamWaitEvent(void* stream, void* event, unsigned) {
    BOUND;
    return driver().wait(stream, event);
}

API int cuEventCreate(void** event, unsigned flags) {
    BOUND;
    const unsigned disable_timing = 2;
    *event = driver().create_event(!(flags & disable_timing));
    return SUCCESS;
}

API int cuEventDestroy_v2(void* event) {
    BOUND;
    return driver().destroy_event(event);
}

API int cuEventRecord(void* event, void* stream) {
    BOUND;
    return driver().record(event, stream);
}

API int cuEventSynchronize(void* event) {
    BOUND;
    return driver().synchronize_event(event);
}

API int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    BOUND;
    return driver().elapsed(milliseconds, from, to);
}

API int cuStreamBeginCapture_v2(void* stream, int) {
    BOUND;
    const int status = driver().begin_capture(stream);
    lock.unlock();
    Driver::linger();
    return status;
}

API int cuStreamEndCapture(void* stream, void** graph) {
    BOUND;
    return driver().end_capture(stream, graph);
}

API int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    BOUND;
    return driver().instantiate(executable, graph);
}

API int cuGraphLaunch(void* graph, void* stream) {
    BOUND;
    return driver().launch_graph(graph, stream);
}

API int cuGraphExecDestroy(void* graph) {
    BOUND;
    return driver().destroy_graph(graph);
}

API int cuGraphDestroy(void* graph) {
    BOUND;
    return driver().destroy_graph(graph);
}
