// A stand-in for NVIDIA's libnvrtc.so.13. Its version is STANDIN_NVRTC, or 13.
#include "compiler.h"

using namespace standin;

API int nvrtcVersion(int* major, int* minor) {
    const char* version = getenv("STANDIN_NVRTC");
    *major = version ? atoi(version) : 13;
    *minor = 0;
    return 0;
}

static const int ARCHITECTURES[] = {75, 80, 90};

API int nvrtcGetNumSupportedArchs(int* count) {
    *count = sizeof ARCHITECTURES / sizeof *ARCHITECTURES;
    return 0;
}

API int nvrtcGetSupportedArchs(int* architectures) {
    memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
    return 0;
}

API int nvrtcCreateProgram(Program** program, const char* source, const char* name, int count, const char* const* headers,
                           const char* const* names) {
    return create(program, source, name, count, headers, names);
}

API int nvrtcDestroyProgram(Program** program) {
    return destroy(program);
}

API int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    return program->compile(count, options);
}

API int nvrtcGetProgramLogSize(Program* program, size_t* bytes) {
    *bytes = program->log.size() + 1;
    return 0;
}

API int nvrtcGetProgramLog(Program* program, char* log) {
    memcpy(log, program->log.c_str(), program->log.size() + 1);
    return 0;
}

API int nvrtcGetCUBINSize(Program* program, size_t* bytes) {
    *bytes = program->code.size();
    return 0;
}

API int nvrtcGetCUBIN(Program* program, char* code) {
    memcpy(code, program->code.data(), program->code.size());
    return 0;
}
