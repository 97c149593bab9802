// What the stand-ins for NVRTC and hipRTC share: g++ compiles the very text, with simt.h, into a library, which is the code.
//
// STANDIN_SHIM is the folder of simt.h and of simt.o, its compiled scheduler. Each compilation is told on stderr.
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace standin {

// A folder that is removed with what is in it.
class Scratch {
    std::string path_;

  public:
    Scratch() {
        path_ = P_tmpdir "/stand-in-XXXXXX";
        if (!mkdtemp(path_.data())) abort();
    }
    ~Scratch() { (void)!system(("rm -r " + path_).c_str()); }
    Scratch(const Scratch&) = delete;

    std::string path(const std::string& name) const { return path_ + "/" + name; }

    void write(const std::string& name, const std::string& text) const {
        FILE* file = fopen(path(name).c_str(), "wb");
        if (!file || fwrite(text.data(), 1, text.size(), file) != text.size() || fclose(file)) abort();
    }

    std::string read(const std::string& name) const {
        std::string text;
        if (FILE* file = fopen(path(name).c_str(), "rb")) {
            char part[1 << 16];
            for (size_t bytes; (bytes = fread(part, 1, sizeof part, file)) > 0;) text.append(part, bytes);
            fclose(file);
        }
        return text;
    }
};

struct Program {
    std::string source, name;
    std::vector<std::pair<std::string, std::string>> headers;
    std::string log, code;

    // 6 if the program does not compile, as with both real ones.
    int compile(int count, const char* const* options) {
        fprintf(stderr, "stand-in: compiling %s\n", name.c_str());
        const char* shim = getenv("STANDIN_SHIM");
        if (!shim) {
            log = "STANDIN_SHIM is not set";
            return 6;
        }
        const Scratch scratch;
        for (auto& [name, text] : headers) scratch.write(name, text);
        scratch.write("program.cu", "#line 1 \"" + name + "\"\n" + source);
        std::string command = "g++ -std=c++17 -O1 -fPIC -shared -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -w";
        for (int i = 0; i < count; ++i) {
            if (strncmp(options[i], "-D", 2) == 0) command += " '" + std::string(options[i]) + "'";
        }
        command += " -I " + std::string(shim) + " -include simt.h -I " + scratch.path("");
        command += " -x c++ " + scratch.path("program.cu") + " -x none " + std::string(shim) + "/simt.o";
        command += " -o " + scratch.path("code.so") + " >" + scratch.path("log") + " 2>&1";
        const int status = system(command.c_str());
        log = scratch.read("log");
        code = scratch.read("code.so");
        return status == 0 ? 0 : 6;
    }
};

inline int create(Program** program, const char* source, const char* name, int count, const char* const* headers,
                  const char* const* names) {
    *program = new Program{source, name, {}, "", ""};
    for (int i = 0; i < count; ++i) (*program)->headers.emplace_back(names[i], headers[i]);
    return 0;
}

inline int destroy(Program** program) {
    delete *program;
    *program = nullptr;
    return 0;
}

}  // namespace standin
