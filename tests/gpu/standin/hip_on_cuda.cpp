// AMD's libamdhip64.so, hipRTC included, on a device of NVIDIA's: every function is handed on to libcuda.so.1, or to NVRTC. So the host
// code for HIP runs on real hardware where there is none of AMD's. The architecture is gfx1100, one without AMD's own instructions in
// our kernels; what is compiled is for the device that there is.
//
// g++ -std=c++20 -shared -fPIC hip_on_cuda.cpp -o libamdhip64.so.7
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <initializer_list>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Status { SUCCESS = 0, NOT_FOUND = 500 };

// CUDA's numbers of attributes.
enum Attribute { WARP = 10, MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, SHARED = 97 };
// CUDA's number of what a kernel may be allowed.
constexpr int DYNAMIC_SHARED = 8;

void* library(std::initializer_list<const char*> names) {
    for (const char* name : names) {
        if (void* found = dlopen(name, RTLD_NOW | RTLD_GLOBAL)) return found;
    }
    return nullptr;
}

void* cuda(const char* name) {
    static void* const own = library({"libcuda.so.1"});
    return own ? dlsym(own, name) : nullptr;
}

void* nvrtc(const char* name) {
    static void* const own = library({"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"});
    return own ? dlsym(own, name) : nullptr;
}

// Calls a function that takes just these types, as CUDA's header has them.
template <class... Arguments>
int call(void* function, Arguments... arguments) {
    return function ? ((int (*)(Arguments...))function)(arguments...) : NOT_FOUND;
}

#define CUDA(name, ...) call(cuda(#name) __VA_OPT__(, ) __VA_ARGS__)
#define NVRTC(name, ...) call(nvrtc(#name) __VA_OPT__(, ) __VA_ARGS__)

uint64_t address(const void* pointer) {
    return (uint64_t)pointer;
}

int attribute(int which, int device) {
    int value = 0;
    CUDA(cuDeviceGetAttribute, &value, which, device);
    return value;
}

} // namespace

API int hipRuntimeGetVersion(int* version) {
    *version = 60000000;
    return SUCCESS;
}

API const char* hipGetErrorName(int status) {
    const char* name = nullptr;
    CUDA(cuGetErrorName, status, &name);
    return name ? name : "unknown";
}

API int hipGetDeviceCount(int* count) {
    const int status = CUDA(cuInit, 0u);
    return status ? status : CUDA(cuDeviceGetCount, count);
}

static thread_local int current = -1; // the device, once there is one

API int hipSetDevice(int device) {
    if (device == current) return SUCCESS;
    void* context = nullptr;
    if (const int status = CUDA(cuDevicePrimaryCtxRetain, &context, device)) return status;
    const int status = CUDA(cuCtxSetCurrent, context);
    if (status == SUCCESS) current = device;
    return status;
}

API int hipGetDevice(int* device) {
    const int status = current < 0 ? hipSetDevice(0) : (int)SUCCESS;
    *device = current;
    return status;
}

API int hipDeviceGetName(char* name, int bytes, int device) {
    return CUDA(cuDeviceGetName, name, bytes, device);
}

API int hipDeviceTotalMem(size_t* bytes, int device) {
    return CUDA(cuDeviceTotalMem_v2, bytes, device);
}

// HIP's numbers, of hip_runtime_api.h.
API int hipDeviceGetAttribute(int* value, int which, int device) {
    switch (which) {
        case 63: *value = attribute(MULTIPROCESSORS, device); return SUCCESS;
        case 74: *value = attribute(SHARED, device); return SUCCESS;
        case 87: *value = attribute(WARP, device); return SUCCESS;
        default: return NOT_FOUND;
    }
}

API int hipGetDevicePropertiesR0600(char* description, int) {
    strcpy(description + 1160, "gfx1100");
    return SUCCESS;
}

API int hipDeviceSynchronize() { return CUDA(cuCtxSynchronize); }
API int hipMemGetInfo(size_t* free, size_t* total) { return CUDA(cuMemGetInfo_v2, free, total); }
API int hipMalloc(void** pointer, size_t bytes) { return CUDA(cuMemAlloc_v2, (uint64_t*)pointer, bytes); }
API int hipFree(void* pointer) { return CUDA(cuMemFree_v2, address(pointer)); }
API int hipHostMalloc(void** pointer, size_t bytes, unsigned) { return CUDA(cuMemHostAlloc, pointer, bytes, 1u); }
API int hipHostFree(void* pointer) { return CUDA(cuMemFreeHost, pointer); }

API int hipMemcpyHtoDAsync(void* to, const void* from, size_t bytes, void* stream) {
    return CUDA(cuMemcpyHtoDAsync_v2, address(to), from, bytes, stream);
}

API int hipMemcpyDtoHAsync(void* to, void* from, size_t bytes, void* stream) {
    return CUDA(cuMemcpyDtoHAsync_v2, to, address(from), bytes, stream);
}

API int hipMemcpyDtoDAsync(void* to, void* from, size_t bytes, void* stream) {
    return CUDA(cuMemcpyDtoDAsync_v2, address(to), address(from), bytes, stream);
}

API int hipMemsetD8Async(void* at, unsigned char value, size_t bytes, void* stream) {
    return CUDA(cuMemsetD8Async, address(at), value, bytes, stream);
}

API int hipModuleLoadData(void** module, const void* code) { return CUDA(cuModuleLoadData, module, code); }
API int hipModuleUnload(void* module) { return CUDA(cuModuleUnload, module); }

API int hipModuleGetFunction(void** function, void* module, const char* name) {
    return CUDA(cuModuleGetFunction, function, module, name);
}

API int hipFuncGetAttribute(int* value, int which, void* function) {
    return CUDA(cuFuncGetAttribute, value, which, function);
}

API int hipModuleLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                              unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments,
                              void** extra) {
    // CUDA has to be asked for more than this, HIP not.
    if (shared > 48 << 10) {
        if (const int status = CUDA(cuFuncSetAttribute, function, DYNAMIC_SHARED, (int)shared)) return status;
    }
    return CUDA(cuLaunchKernel, function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared, stream, arguments,
                extra);
}

API int hipStreamCreateWithFlags(void** stream, unsigned flags) { return CUDA(cuStreamCreate, stream, flags); }
API int hipStreamDestroy(void* stream) { return CUDA(cuStreamDestroy_v2, stream); }
API int hipStreamSynchronize(void* stream) { return CUDA(cuStreamSynchronize, stream); }

API int hipStreamWaitEvent(void* stream, void* event, unsigned flags) {
    return CUDA(cuStreamWaitEvent, stream, event, flags);
}

API int hipEventCreateWithFlags(void** event, unsigned flags) { return CUDA(cuEventCreate, event, flags); }
API int hipEventDestroy(void* event) { return CUDA(cuEventDestroy_v2, event); }
API int hipEventRecord(void* event, void* stream) { return CUDA(cuEventRecord, event, stream); }
API int hipEventSynchronize(void* event) { return CUDA(cuEventSynchronize, event); }

API int hipEventElapsedTime(float* milliseconds, void* from, void* to) {
    return CUDA(cuEventElapsedTime, milliseconds, from, to);
}

API int hipStreamBeginCapture(void* stream, int mode) { return CUDA(cuStreamBeginCapture_v2, stream, mode); }
API int hipStreamEndCapture(void* stream, void** graph) { return CUDA(cuStreamEndCapture, stream, graph); }

API int hipGraphInstantiate(void** executable, void* graph, void**, char*, size_t) {
    return CUDA(cuGraphInstantiateWithFlags, executable, graph, 0ull);
}

API int hipGraphLaunch(void* graph, void* stream) { return CUDA(cuGraphLaunch, graph, stream); }
API int hipGraphExecDestroy(void* graph) { return CUDA(cuGraphExecDestroy, graph); }
API int hipGraphDestroy(void* graph) { return CUDA(cuGraphDestroy, graph); }

API int hiprtcVersion(int* major, int* minor) { return NVRTC(nvrtcVersion, major, minor); }

API int hiprtcCreateProgram(void** program, const char* source, const char* name, int count, const char* const* headers,
                            const char* const* names) {
    return NVRTC(nvrtcCreateProgram, program, source, name, count, headers, names);
}

API int hiprtcDestroyProgram(void** program) { return NVRTC(nvrtcDestroyProgram, program); }

// For the first device, with the definitions that were given, and NVRTC's words for the rest.
API int hiprtcCompileProgram(void* program, int count, const char* const* options) {
    char architecture[64];
    snprintf(architecture, sizeof architecture, "--gpu-architecture=sm_%d%d", attribute(MAJOR, 0), attribute(MINOR, 0));
    std::vector<const char*> own = {architecture, "-std=c++17", "--fmad=false"};
    for (int i = 0; i < count; ++i) {
        if (strncmp(options[i], "-D", 2) == 0) own.push_back(options[i]);
    }
    return NVRTC(nvrtcCompileProgram, program, (int)own.size(), own.data());
}

API int hiprtcGetProgramLogSize(void* program, size_t* bytes) { return NVRTC(nvrtcGetProgramLogSize, program, bytes); }
API int hiprtcGetProgramLog(void* program, char* log) { return NVRTC(nvrtcGetProgramLog, program, log); }
API int hiprtcGetCodeSize(void* program, size_t* bytes) { return NVRTC(nvrtcGetCUBINSize, program, bytes); }
API int hiprtcGetCode(void* program, char* code) { return NVRTC(nvrtcGetCUBIN, program, code); }
