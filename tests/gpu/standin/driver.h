// A driver and its device, on the processor: what the stand-ins for CUDA's and for HIP's library share.
//
// It finds mistakes that a real device hides. Memory is poison when it is fresh, lies in pages that nothing but a kernel or a copy may
// touch, ends at a page that nothing may touch, and is never handed out again. Work is done as late as the interface allows: when
// somebody waits for it. Arguments of kernels that are addresses have to be the device's. A kernel's failure is told by the next call
// that waits, and by every launch after it. Messages go to stderr, after "stand-in: ".
//
// Kernels are host code, made by the stand-ins of the compilers and run by simt.h. What can be set, by environment variables:
//   STANDIN_WARP      threads of a warp: 32 if not set
//   STANDIN_DEVICES   how many devices there are: 1
//   STANDIN_MEMORY    bytes of memory of each: 4 GiB
//   STANDIN_VERSION   of the driver, as the driver tells it
//   STANDIN_STATUS    with which every wait fails, though nothing has: 0
//   STANDIN_CAPTURE   milliseconds that the beginning of a capture takes, for others to get in its way: 0
//   STANDIN_ORDER     the order in which threads run, 0 to 2, as simt.h has it: 0
//   STANDIN_SHARED    bytes of shared memory that a block may have: 227 KiB of CUDA's, 64 KiB of HIP's
//   STANDIN_OWN       bytes of them that every kernel has beside what it is launched with: 0
#pragma once
#include <dlfcn.h>
#include <elf.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace standin {

// HIP took over CUDA's numbers.
enum Status : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
};

inline uint64_t setting(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text ? strtoull(text, nullptr, 0) : otherwise;
}

[[noreturn]] inline void fail(const std::string& message) {
    fprintf(stderr, "stand-in: %s\n", message.c_str());
    abort();
}

constexpr size_t PAGE = 4096;

inline size_t pages(size_t bytes) {
    return (bytes + PAGE - 1) / PAGE * PAGE;
}

// ---- Memory ----

// Address space of its own, so that an address tells what it belongs to; handed out once, with a page between allocations.
class Space {
    static constexpr size_t BYTES = size_t(1) << 40;
    char* start_;
    size_t next_ = PAGE;

  public:
    Space() {
        start_ = (char*)mmap(nullptr, BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (start_ == MAP_FAILED) fail("no address space");
    }

    bool contains(const void* address) const { return address >= start_ && address < start_ + BYTES; }

    // Pages for `bytes` that may be read and written, the last of them before one that may not.
    char* take(size_t bytes) {
        char* memory = start_ + next_;
        next_ += pages(bytes) + PAGE;
        if (next_ > BYTES) fail("no address space left");
        mprotect(memory, pages(bytes), PROT_READ | PROT_WRITE);
        return memory;
    }

    // From now on nothing may touch them.
    static void give_back(char* memory, size_t bytes) {
        madvise(memory, pages(bytes), MADV_DONTNEED);
        mprotect(memory, pages(bytes), PROT_NONE);
    }
};

struct Allocation {
    char* memory;  // whole pages
    size_t room;   // what of them counts, up to their end
    size_t bytes;  // as asked for
    int device;
};

class Memory {
    static constexpr size_t ALIGNMENT = 256;
    static constexpr unsigned char POISON = 0xff; // not a number, in every type

    Space space_, host_space_;
    std::map<char*, Allocation> live_;
    std::map<char*, size_t> pinned_;
    std::map<int, size_t> used_;
    size_t peak_ = 0;
    int open_ = 0;

    // The live allocation with this address in it, or at its end.
    const Allocation* find(const void* address) const {
        auto after = live_.upper_bound((char*)address);
        if (after == live_.begin()) return nullptr;
        auto at = std::prev(after);
        return (char*)address <= at->first + at->second.bytes ? &at->second : nullptr;
    }

  public:
    size_t total() const { return setting("STANDIN_MEMORY", uint64_t(4) << 30); }
    size_t free_on(int device) { return total() - used_[device]; }
    size_t peak() const { return peak_; }
    bool is_device(const void* address) const { return space_.contains(address); }
    bool is_host(const void* address) const { return host_space_.contains(address); }
    bool is_live(const void* address) const { return find(address); }
    bool is_open() const { return open_; }

    char* allocate(size_t bytes, int device) {
        if (bytes == 0 || bytes > free_on(device)) return nullptr;
        const size_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        char* memory = space_.take(room);
        // Its end is the end of the last page.
        char* start = memory + pages(room) - room;
        memset(start, POISON, room);
        live_[start] = {memory, room, bytes, device};
        used_[device] += bytes;
        peak_ = std::max(peak_, used_[device]);
        if (!open_) mprotect(memory, pages(room), PROT_NONE);
        return start;
    }

    bool release(void* start) {
        auto found = live_.find((char*)start);
        if (found == live_.end()) return false;
        const Allocation& gone = found->second;
        used_[gone.device] -= gone.bytes;
        Space::give_back(gone.memory, gone.room);
        live_.erase(found);
        return true;
    }

    char* allocate_pinned(size_t bytes) {
        if (bytes == 0) return nullptr;
        char* memory = host_space_.take(bytes);
        memset(memory, POISON, bytes);
        pinned_[memory] = bytes;
        return memory;
    }

    bool release_pinned(void* start) {
        auto found = pinned_.find((char*)start);
        if (found == pinned_.end()) return false;
        Space::give_back(found->first, found->second);
        pinned_.erase(found);
        return true;
    }

    // Whether so many bytes lie in one allocation.
    bool holds(const void* start, size_t bytes) const {
        const Allocation* found = find(start);
        return found && (char*)start + bytes <= found->memory + pages(found->room) - found->room + found->bytes;
    }

    // While the device works, its memory can be touched.
    void open() {
        if (open_++ == 0) protect(PROT_READ | PROT_WRITE);
    }
    void close() {
        if (--open_ == 0) protect(PROT_NONE);
    }

  private:
    void protect(int protection) {
        for (auto& [start, allocation] : live_) mprotect(allocation.memory, pages(allocation.room), protection);
    }
};

// ---- Queues ----

// One time that an event was recorded. Who waits for an event waits for the last before, whatever comes after.
struct Record {
    bool done = false;
    double milliseconds = 0;
};

struct Event {
    bool timed = false;
    std::shared_ptr<Record> last;
};

struct Work {
    std::function<void()> run;
    std::shared_ptr<Record> waits_for;
};

struct Graph {
    std::vector<Work> works;
};

struct Stream {
    std::deque<Work> queue;
    std::shared_ptr<Graph> captures;
    bool invalidated = false;
};

// ---- Code ----

// What modules export: see simt.h.
typedef const void* (*FindKernel)(const char*);
typedef const unsigned* (*ParameterBytes)(const void*);
typedef const char* (*LaunchKernel)(const void*, const unsigned*, const unsigned*, unsigned, void* const*, int);

struct Module;

struct Function {
    Module* module;
    const void* kernel;
    std::string name;
    std::vector<unsigned> parameters; // bytes
    unsigned shared_bytes;            // what it may be launched with
};

struct Module {
    void* library;
    ParameterBytes parameter_bytes;
    LaunchKernel launch;
    std::vector<std::unique_ptr<Function>> functions;
};

// ---- The driver ----

inline double now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e3 + time.tv_nsec * 1e-6;
}

class Driver {
    std::recursive_mutex mutex_;
    Memory memory_;
    Status failed_ = (Status)setting("STANDIN_STATUS", SUCCESS);
    bool broken_ = false; // by a kernel
    std::vector<std::unique_ptr<Stream>> streams_;
    std::map<void*, std::shared_ptr<Event>> events_;
    std::vector<std::unique_ptr<Module>> modules_;
    std::vector<std::unique_ptr<std::shared_ptr<Graph>>> graphs_;

  public:
    const int devices = (int)setting("STANDIN_DEVICES", 1);
    const int warp = (int)setting("STANDIN_WARP", 32);

    Driver();

    std::unique_lock<std::recursive_mutex> lock() { return std::unique_lock<std::recursive_mutex>(mutex_); }
    Memory& memory() { return memory_; }

    // Whether a stream is this driver's.
    bool knows(void* stream) const {
        for (auto& known : streams_)
            if (known.get() == stream) return true;
        return false;
    }

    Stream* create_stream() {
        streams_.push_back(std::make_unique<Stream>());
        return streams_.back().get();
    }

    Status destroy_stream(void* stream) {
        if (!knows(stream)) return INVALID_HANDLE;
        const Status status = synchronize(stream);
        for (auto at = streams_.begin(); at != streams_.end(); ++at) {
            if (at->get() == stream) {
                streams_.erase(at);
                break;
            }
        }
        return status;
    }

    Status queue(void* handle, std::function<void()> run, std::shared_ptr<Record> waits_for = nullptr) {
        if (!knows(handle)) return INVALID_HANDLE;
        Stream* stream = (Stream*)handle;
        auto& works = stream->captures;
        Work work = {std::move(run), std::move(waits_for)};
        if (works) {
            works->works.push_back(std::move(work));
        } else {
            stream->queue.push_back(std::move(work));
        }
        return SUCCESS;
    }

    // Does all that is queued, and what it waits for.
    Status synchronize(void* handle) {
        if (!knows(handle)) return INVALID_HANDLE;
        Stream* stream = (Stream*)handle;
        if (stream->captures) return spoil(stream);
        while (!stream->queue.empty()) {
            if (!step(stream)) step_any("streams wait for each other");
        }
        return failed_;
    }

    Status synchronize_all() {
        for (auto& stream : streams_) {
            if (stream->captures) return spoil(stream.get());
        }
        for (size_t i = 0; i < streams_.size(); ++i) synchronize(streams_[i].get());
        return failed_;
    }

    // Copies `bytes`; the device's side has to lie in one allocation.
    Status copy(void* stream, void* to, const void* from, size_t bytes, bool to_device, bool from_device) {
        if (to_device && !memory_.holds(to, bytes)) return INVALID_VALUE;
        if (from_device && !memory_.holds(from, bytes)) return INVALID_VALUE;
        if ((!to_device && memory_.is_device(to)) || (!from_device && memory_.is_device(from))) return INVALID_VALUE;
        return queue(stream, [=] { memcpy(to, from, bytes); });
    }

    Status fill(void* stream, void* at, unsigned char value, size_t bytes) {
        if (!memory_.holds(at, bytes)) return INVALID_VALUE;
        return queue(stream, [=] { memset(at, value, bytes); });
    }

    // ---- Events

    void* create_event(bool timed) {
        auto event = std::make_shared<Event>();
        event->timed = timed;
        events_[event.get()] = event;
        return event.get();
    }

    Status destroy_event(void* handle) { return events_.erase(handle) ? SUCCESS : INVALID_HANDLE; }

    Status record(void* handle, void* stream) {
        auto event = events_.find(handle);
        if (event == events_.end()) return INVALID_HANDLE;
        auto record = std::make_shared<Record>();
        event->second->last = record;
        return queue(stream, [record] {
            record->done = true;
            record->milliseconds = now();
        });
    }

    Status wait(void* stream, void* handle) {
        auto event = events_.find(handle);
        if (event == events_.end()) return INVALID_HANDLE;
        return event->second->last ? queue(stream, nullptr, event->second->last) : SUCCESS;
    }

    Status synchronize_event(void* handle) {
        auto event = events_.find(handle);
        if (event == events_.end()) return INVALID_HANDLE;
        while (event->second->last && !event->second->last->done) step_any("an event never happens");
        return failed_;
    }

    Status elapsed(float* milliseconds, void* from, void* to) {
        auto start = events_.find(from), end = events_.find(to);
        if (start == events_.end() || end == events_.end()) return INVALID_HANDLE;
        if (!start->second->timed || !end->second->timed) return INVALID_HANDLE;
        if (!start->second->last || !end->second->last) return INVALID_HANDLE;
        *milliseconds = (float)(end->second->last->milliseconds - start->second->last->milliseconds);
        return SUCCESS;
    }

    // ---- Graphs

    Status begin_capture(void* handle) {
        if (!knows(handle)) return INVALID_HANDLE;
        Stream* stream = (Stream*)handle;
        if (stream->captures) return CAPTURE_UNSUPPORTED;
        stream->captures = std::make_shared<Graph>();
        stream->invalidated = false;
        return SUCCESS;
    }

    // Without the lock.
    static void linger() { usleep(1000 * (useconds_t)setting("STANDIN_CAPTURE", 0)); }

    Status end_capture(void* handle, void** graph) {
        if (!knows(handle)) return INVALID_HANDLE;
        Stream* stream = (Stream*)handle;
        if (!stream->captures) return CAPTURE_UNSUPPORTED;
        auto captured = std::move(stream->captures);
        stream->captures = nullptr;
        if (stream->invalidated) return CAPTURE_INVALIDATED;
        *graph = keep(std::move(captured));
        return SUCCESS;
    }

    Status instantiate(void** executable, void* graph) {
        const auto* found = find_graph(graph);
        if (!found) return INVALID_HANDLE;
        *executable = keep(*found);
        return SUCCESS;
    }

    Status destroy_graph(void* graph) {
        for (auto at = graphs_.begin(); at != graphs_.end(); ++at) {
            if (at->get() == graph) {
                graphs_.erase(at);
                return SUCCESS;
            }
        }
        return INVALID_HANDLE;
    }

    Status launch_graph(void* graph, void* stream) {
        const auto* found = find_graph(graph);
        if (!found) return INVALID_HANDLE;
        for (const Work& work : (*found)->works) {
            if (Status status = queue(stream, work.run, work.waits_for)) return status;
        }
        return SUCCESS;
    }

    // ---- Kernels

    // Code is a library, which ends where its table of sections does.
    Status load(void** module, const void* code) {
        const auto* header = (const Elf64_Ehdr*)code;
        if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return INVALID_IMAGE;
        const size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
        const int file = memfd_create("stand-in", MFD_CLOEXEC);
        if (file < 0 || write(file, code, bytes) != (ssize_t)bytes) fail("cannot copy code");
        // It stays open: the loader takes a path that it has seen for the library that it has loaded.
        const std::string path = "/proc/self/fd/" + std::to_string(file);
        void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (!library) return INVALID_IMAGE;
        auto loaded = std::make_unique<Module>();
        loaded->library = library;
        loaded->parameter_bytes = (ParameterBytes)dlsym(library, "simt_parameter_bytes");
        loaded->launch = (LaunchKernel)dlsym(library, "simt_launch");
        if (!loaded->parameter_bytes || !loaded->launch) return INVALID_IMAGE;
        *module = loaded.get();
        modules_.push_back(std::move(loaded));
        return SUCCESS;
    }

    Status unload(void* module) {
        for (auto at = modules_.begin(); at != modules_.end(); ++at) {
            if (at->get() == module) {
                // The library stays: work that is queued too late should be found by a message, not by chance.
                modules_.erase(at);
                return SUCCESS;
            }
        }
        return INVALID_HANDLE;
    }

    Status find_function(void** function, void* module, const char* name) {
        Module* found = nullptr;
        for (auto& known : modules_)
            if (known.get() == module) found = known.get();
        if (!found) return INVALID_HANDLE;
        const auto find = (FindKernel)dlsym(found->library, "simt_kernel");
        const void* kernel = find ? find(name) : nullptr;
        if (!kernel) return NOT_FOUND;
        std::vector<unsigned> parameters;
        for (const unsigned* bytes = found->parameter_bytes(kernel); *bytes; ++bytes) parameters.push_back(*bytes);
        found->functions.push_back(
            std::make_unique<Function>(Function{found, kernel, name, parameters, shared_limit_unasked()}));
        *function = found->functions.back().get();
        return SUCCESS;
    }

    // What the driver tells of a kernel: HIP took over CUDA's numbers.
    Status function_attribute(int* value, int which, void* handle) {
        if (!function(handle)) return INVALID_HANDLE;
        if (which != 1) return INVALID_VALUE;  // SHARED_SIZE_BYTES
        *value = (int)setting("STANDIN_OWN", 0);
        return SUCCESS;
    }

    Function* function(void* handle) {
        for (auto& module : modules_)
            for (auto& function : module->functions)
                if (function.get() == handle) return function.get();
        return nullptr;
    }

    Status launch(void* handle, const unsigned (&grid)[3], const unsigned (&block)[3], unsigned shared_bytes,
                  void* stream, void** arguments) {
        if (broken_) return LAUNCH_FAILED;
        Function* kernel = function(handle);
        if (!kernel) return INVALID_HANDLE;
        for (int i = 0; i < 3; ++i) {
            if (grid[i] == 0 || block[i] == 0 || (i > 0 && grid[i] > 65535)) return INVALID_VALUE;
        }
        if ((uint64_t)block[0] * block[1] * block[2] > 1024) return INVALID_VALUE;
        if (shared_bytes > kernel->shared_bytes) return INVALID_VALUE;
        // Values are taken now, and used when the kernel runs.
        auto values = std::make_shared<std::vector<std::vector<char>>>();
        for (size_t i = 0; i < kernel->parameters.size(); ++i) {
            if (!arguments || !arguments[i]) return INVALID_VALUE;
            const char* value = (const char*)arguments[i];
            values->emplace_back(value, value + kernel->parameters[i]);
        }
        struct Size {
            unsigned grid[3], block[3];
        };
        const Size size = {{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}};
        const std::string name = kernel->name;
        const LaunchKernel run = kernel->module->launch;
        const void* code = kernel->kernel;
        return queue(stream, [=, this] {
            std::vector<void*> addresses;
            for (auto& value : *values) {
                check_addresses(name, addresses.size(), value);
                addresses.push_back(value.data());
            }
            const int order = (int)setting("STANDIN_ORDER", 0);
            if (const char* why = run(code, size.grid, size.block, shared_bytes, addresses.data(), order)) {
                fprintf(stderr, "stand-in: %s: %s\n", name.c_str(), why);
                failed_ = LAUNCH_FAILED;
                broken_ = true;
            }
        });
    }

  private:
    static unsigned shared_limit_unasked();

    // A call that a capture does not allow makes nothing of it.
    static Status spoil(Stream* stream) {
        stream->invalidated = true;
        return CAPTURE_UNSUPPORTED;
    }

    void* keep(std::shared_ptr<Graph> graph) {
        graphs_.push_back(std::make_unique<std::shared_ptr<Graph>>(std::move(graph)));
        return graphs_.back().get();
    }

    const std::shared_ptr<Graph>* find_graph(void* handle) const {
        for (auto& graph : graphs_)
            if (graph.get() == handle) return graph.get();
        return nullptr;
    }

    // Does the first work of a queue, unless it has to wait. After a failure, nothing is done any more.
    bool step(Stream* stream) {
        if (stream->queue.empty()) return false;
        Work& first = stream->queue.front();
        if (first.waits_for && !first.waits_for->done) return false;
        auto run = std::move(first.run);
        stream->queue.pop_front();
        if (run && failed_ == SUCCESS) {
            memory_.open();
            run();
            memory_.close();
        }
        return true;
    }

    void step_any(const char* otherwise) {
        for (auto& stream : streams_)
            if (step(stream.get())) return;
        if (failed_ == SUCCESS) fail(otherwise);
        for (auto& [handle, event] : events_)
            if (event->last) event->last->done = true;
    }

    // Whatever in an argument looks like an address has to be one of the device's memory that is there.
    void check_addresses(const std::string& kernel, size_t index, const std::vector<char>& value) {
        const auto complain = [&](const char* what) {
            fail("argument " + std::to_string(index) + " of " + kernel + " is " + what);
        };
        for (size_t at = 0; at + 8 <= value.size(); at += 8) {
            char* address;
            memcpy(&address, &value[at], sizeof address);
            if (memory_.is_device(address)) {
                if (!memory_.is_live(address)) complain("an address of device memory that is not allocated");
            } else if (!memory_.is_host(address) && is_mapped(address)) {
                complain("an address of the host");
            }
        }
    }

    static bool is_mapped(void* address) {
        unsigned char resident;
        return mincore((void*)((uintptr_t)address / PAGE * PAGE), PAGE, &resident) == 0;
    }
};

inline Driver& driver() {
    static Driver* the = new Driver;
    return *the;
}

// Says what a forbidden access was, and lets it end the program.
inline void on_fault(int signal, siginfo_t* info, void*) {
    const Memory& memory = driver().memory();
    const char* what = nullptr;
    if (memory.is_host(info->si_addr)) {
        what = "stand-in: access to pinned memory that was given back\n";
    } else if (memory.is_device(info->si_addr)) {
        what = !memory.is_live(info->si_addr) || memory.is_open() ? "stand-in: access to device memory that is not allocated\n"
                                                                  : "stand-in: the host touches device memory\n";
    }
    if (what) (void)!write(STDERR_FILENO, what, strlen(what));
    ::signal(signal, SIG_DFL);
}

inline Driver::Driver() {
    struct sigaction action = {};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
}

}  // namespace standin
