// A stand-in for AMD's libamdhip64.so, hipRTC included: the functions that are used, with the names, types and statuses of
// hip_runtime_api.h. The device's architecture is STANDIN_ARCHITECTURE, or gfx906.
#include "compiler.h"
#include "driver.h"

using namespace standin;

// For the stand-ins of the vendor's other libraries.
API Driver* standin_driver() {
    return &driver();
}

static const int SHARED_LIMIT = (int)setting("STANDIN_SHARED", 64 * 1024);

// For tests: the most memory of a device that was ever taken.
API size_t standin_peak() {
    return driver().memory().peak();
}

unsigned Driver::shared_limit_unasked() {
    return SHARED_LIMIT;
}

static thread_local int current = 0; // the device

API int hipRuntimeGetVersion(int* version) {
    *version = (int)setting("STANDIN_VERSION", 50221153);
    return SUCCESS;
}

API const char* hipGetErrorName(int status) {
    switch (status) {
        case INVALID_VALUE: return "hipErrorInvalidValue";
        case OUT_OF_MEMORY: return "hipErrorOutOfMemory";
        case NO_DEVICE: return "hipErrorNoDevice";
        case INVALID_DEVICE: return "hipErrorInvalidDevice";
        case INVALID_IMAGE: return "hipErrorInvalidImage";
        case INVALID_HANDLE: return "hipErrorInvalidHandle";
        case NOT_FOUND: return "hipErrorNotFound";
        case LAUNCH_FAILED: return "hipErrorLaunchFailure";
        case 801: return "hipErrorNotSupported";
        case CAPTURE_UNSUPPORTED: return "hipErrorStreamCaptureUnsupported";
        case CAPTURE_INVALIDATED: return "hipErrorStreamCaptureInvalidated";
        default: return "hipErrorUnknown";
    }
}

API int hipGetDeviceCount(int* count) {
    *count = driver().devices;
    return driver().devices == 0 ? NO_DEVICE : SUCCESS;
}

API int hipGetDevice(int* device) {
    *device = current;
    return SUCCESS;
}

API int hipSetDevice(int device) {
    if (device < 0 || device >= driver().devices) return INVALID_DEVICE;
    current = device;
    return SUCCESS;
}

API int hipDeviceGetName(char* name, int bytes, int device) {
    snprintf(name, (size_t)bytes, "stand-in %d", device);
    return SUCCESS;
}

API int hipDeviceTotalMem(size_t* bytes, int) {
    *bytes = driver().memory().total();
    return SUCCESS;
}

API int hipDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 63: *value = 4; break;              // MultiprocessorCount
        case 74: *value = SHARED_LIMIT; break;   // MaxSharedMemoryPerBlock
        case 87: *value = driver().warp; break;  // WarpSize
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

// The struct of HIP 5, of which only the architecture's name is set.
API int hipGetDeviceProperties(void* description, int) {
    const char* name = getenv("STANDIN_ARCHITECTURE");
    memset(description, 0, 792);
    strcpy((char*)description + 396, name ? name : "gfx906:sramecc+:xnack-");
    return SUCCESS;
}

API int hipDeviceSynchronize() {
    auto lock = driver().lock();
    return driver().synchronize_all();
}

API int hipMemGetInfo(size_t* free, size_t* total) {
    auto lock = driver().lock();
    *total = driver().memory().total();
    *free = driver().memory().free_on(current);
    return SUCCESS;
}

API int hipMalloc(void** pointer, size_t bytes) {
    auto lock = driver().lock();
    *pointer = driver().memory().allocate(bytes, current);
    return *pointer || bytes == 0 ? SUCCESS : OUT_OF_MEMORY;
}

// Waits for all work, which the real one does too.
API int hipFree(void* pointer) {
    auto lock = driver().lock();
    const int status = driver().synchronize_all();
    return driver().memory().release(pointer) ? status : (int)INVALID_VALUE;
}

API int hipHostMalloc(void** pointer, size_t bytes, unsigned) {
    auto lock = driver().lock();
    *pointer = driver().memory().allocate_pinned(bytes);
    return *pointer ? SUCCESS : INVALID_VALUE;
}

// Does not wait.
API int hipHostFree(void* pointer) {
    auto lock = driver().lock();
    return driver().memory().release_pinned(pointer) ? SUCCESS : INVALID_VALUE;
}

API int hipMemcpyHtoDAsync(void* to, const void* from, size_t bytes, void* stream) {
    auto lock = driver().lock();
    return driver().copy(stream, to, from, bytes, true, false);
}

API int hipMemcpyDtoHAsync(void* to, void* from, size_t bytes, void* stream) {
    auto lock = driver().lock();
    return driver().copy(stream, to, from, bytes, false, true);
}

API int hipMemcpyDtoDAsync(void* to, void* from, size_t bytes, void* stream) {
    auto lock = driver().lock();
    return driver().copy(stream, to, from, bytes, true, true);
}

API int hipMemsetD8Async(void* at, unsigned char value, size_t bytes, void* stream) {
    auto lock = driver().lock();
    return driver().fill(stream, at, value, bytes);
}

API int hipModuleLoadData(void** module, const void* code) {
    auto lock = driver().lock();
    return driver().load(module, code);
}

API int hipModuleUnload(void* module) {
    auto lock = driver().lock();
    return driver().unload(module);
}

API int hipModuleGetFunction(void** function, void* module, const char* name) {
    auto lock = driver().lock();
    return driver().find_function(function, module, name);
}

API int hipFuncGetAttribute(int* value, int which, void* function) {
    auto lock = driver().lock();
    return driver().function_attribute(value, which, function);
}

API int hipModuleLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream, void** arguments,
                              void** extra) {
    auto lock = driver().lock();
    if (extra) return INVALID_VALUE;
    return driver().launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, stream,
                           arguments);
}

API int hipStreamCreateWithFlags(void** stream, unsigned) {
    auto lock = driver().lock();
    *stream = driver().create_stream();
    return SUCCESS;
}

API int hipStreamDestroy(void* stream) {
    auto lock = driver().lock();
    return driver().destroy_stream(stream);
}

API int hipStreamSynchronize(void* stream) {
    auto lock = driver().lock();
    return driver().synchronize(stream);
}

API int hipStreamWaitEvent(void* stream, void* event, unsigned) {
    auto lock = driver().lock();
    return driver().wait(stream, event);
}

API int hipEventCreateWithFlags(void** event, unsigned flags) {
    auto lock = driver().lock();
    const unsigned disable_timing = 2;
    *event = driver().create_event(!(flags & disable_timing));
    return SUCCESS;
}

API int hipEventDestroy(void* event) {
    auto lock = driver().lock();
    return driver().destroy_event(event);
}

API int hipEventRecord(void* event, void* stream) {
    auto lock = driver().lock();
    return driver().record(event, stream);
}

API int hipEventSynchronize(void* event) {
    auto lock = driver().lock();
    return driver().synchronize_event(event);
}

API int hipEventElapsedTime(float* milliseconds, void* from, void* to) {
    auto lock = driver().lock();
    return driver().elapsed(milliseconds, from, to);
}

API int hipStreamBeginCapture(void* stream, int) {
    auto lock = driver().lock();
    const int status = driver().begin_capture(stream);
    lock.unlock();
    Driver::linger();
    return status;
}

API int hipStreamEndCapture(void* stream, void** graph) {
    auto lock = driver().lock();
    return driver().end_capture(stream, graph);
}

API int hipGraphInstantiate(void** executable, void* graph, void**, char*, size_t) {
    auto lock = driver().lock();
    return driver().instantiate(executable, graph);
}

API int hipGraphLaunch(void* graph, void* stream) {
    auto lock = driver().lock();
    return driver().launch_graph(graph, stream);
}

API int hipGraphExecDestroy(void* graph) {
    auto lock = driver().lock();
    return driver().destroy_graph(graph);
}

API int hipGraphDestroy(void* graph) {
    auto lock = driver().lock();
    return driver().destroy_graph(graph);
}

API int hiprtcVersion(int* major, int* minor) {
    *major = 9;
    *minor = 0;
    return 0;
}

API int hiprtcCreateProgram(Program** program, const char* source, const char* name, int count, const char* const* headers,
                            const char* const* names) {
    return create(program, source, name, count, headers, names);
}

API int hiprtcDestroyProgram(Program** program) {
    return destroy(program);
}

API int hiprtcCompileProgram(Program* program, int count, const char* const* options) {
    return program->compile(count, options);
}

API int hiprtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return 0;
}

API int hiprtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return 0;
}

API int hiprtcGetCodeSize(Program* program, size_t* bytes) {
    *bytes = program->code.size();
    return 0;
}

API int hiprtcGetCode(Program* program, char* code) {
    memcpy(code, program->code.data(), program->code.size());
    return 0;
}
