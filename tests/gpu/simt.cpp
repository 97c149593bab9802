// The scheduler behind simt.h: fibers of one block, which hand the processor on where they wait.
#include "simt.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

#include <memory>
#include <mutex>
#include <string>

namespace simt {
namespace {

// Where a fiber goes on.
#ifdef __x86_64__

typedef void* Context;

extern "C" void simt_swap(Context* from, Context to);
// Registers that a function has to keep go onto the stack, which is then exchanged.
__asm__(R"(
.text
.type simt_swap, @function
simt_swap:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size simt_swap, . - simt_swap
)");

void swap(Context& from, Context& to) {
    simt_swap(&from, to);
}

// The first swap to it calls `entry`, which does not return.
void start(Context& context, char* stack, size_t bytes, void (*entry)()) {
    void** top = (void**)(stack + bytes);
    *--top = nullptr; // keeps the stack's alignment at a call
    *--top = (void*)entry;
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context = top;
}

#else

typedef ucontext_t Context;

void swap(Context& from, Context& to) {
    swapcontext(&from, &to);
}

void start(Context& context, char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    makecontext(&context, entry, 0);
}

#endif

// Memory with a page before it that cannot be touched.
class Stack {
    static constexpr size_t GUARD = 4096;
    char* memory_;

  public:
    static constexpr size_t BYTES = 64 * 1024 - GUARD;

    Stack() {
        memory_ = (char*)mmap(nullptr, GUARD + BYTES, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        mprotect(memory_, GUARD, PROT_NONE);
    }
    ~Stack() { munmap(memory_, GUARD + BYTES); }
    Stack(const Stack&) = delete;

    char* start() const { return memory_ + GUARD; }
};

// A place in the source that threads wait at, and for what.
struct Site {
    const char *what, *file;
    int line;

    bool operator==(const Site& other) const { return line == other.line && strcmp(file, other.file) == 0; }
};

constexpr unsigned LANES = 64;

struct Warp;

struct Fiber : Thread {
    Context context;
    unsigned lane;
    Warp* warp;
    // Which of the warp's two sets the next collective uses: a lane may be one ahead.
    unsigned turn;
    std::vector<std::vector<Copy>> copies;
};

struct Warp {
    std::vector<Fiber*> order; // its lanes
    unsigned arrived, left;
    Site site;
    Brought brought[2][LANES];
};

struct Memory {
    const void* site;
    std::string name;
    size_t size;
    std::vector<char> data;
    std::vector<Cell> cells;
};

struct Machine : Block {
    const Registration* kernel;
    void* const* arguments;
    std::vector<Fiber> fibers;
    std::vector<Warp> warps;
    std::vector<Fiber*> order;
    std::vector<Fiber*> ready; // a ring
    size_t ready_first, ready_count;
    unsigned arrived, left;
    Site site;
    std::vector<std::unique_ptr<Memory>> arrays;
    unsigned shared_bytes;
    Context host;
    std::string* error;

    void wake(Fiber* fiber) { ready[(ready_first + ready_count++) % ready.size()] = fiber; }

    Fiber* next() {
        Fiber* fiber = ready[ready_first];
        ready_first = (ready_first + 1) % ready.size();
        --ready_count;
        return fiber;
    }
};

// Of all launches; `busy` is held for each.
std::mutex busy;
std::vector<std::unique_ptr<Stack>> stacks;
Machine machine;

std::vector<Registration*>& registrations() {
    static std::vector<Registration*> all;
    return all;
}

// Says why nobody can go on.
[[noreturn]] void stuck(const Machine& machine) {
    if (machine.arrived > 0) {
        fail("the barrier at %s:%d is reached by %u of %zu threads, and %u have left", machine.site.file,
             machine.site.line, machine.arrived, machine.fibers.size(), machine.left);
    }
    for (const Warp& warp : machine.warps) {
        if (warp.arrived > 0) {
            fail("the %s at %s:%d is reached by %u of %zu lanes", warp.site.what, warp.site.file, warp.site.line,
                 warp.arrived, warp.order.size());
        }
    }
    fail("nobody can go on");
}

// Lets another fiber run until somebody wakes this one.
void wait() {
    Fiber& self = static_cast<Fiber&>(*current);
    Machine& own = static_cast<Machine&>(*self.block);
    if (own.ready_count == 0) stuck(own);
    Fiber* next = own.next();
    current = next;
    swap(self.context, next->context);
}

void run() {
    Fiber& self = static_cast<Fiber&>(*current);
    Machine& own = static_cast<Machine&>(*self.block);
    own.kernel->invoke(own.kernel->function, own.arguments);
    ++own.left;
    ++self.warp->left;
    if (self.warp->arrived > 0) {
        fail("the thread has left while lanes of its warp wait at %s:%d", self.warp->site.file, self.warp->site.line);
    }
    if (own.left == own.fibers.size()) swap(self.context, own.host);
    wait();
    __builtin_unreachable();
}

// Fibers in the order in which they are to go on.
void arrange(Machine& own, SimtOrder order) {
    const size_t count = own.fibers.size();
    own.order.clear();
    for (Fiber& fiber : own.fibers) own.order.push_back(&fiber);
    if (order == SIMT_REVERSE) {
        for (size_t i = 0; i < count / 2; ++i) std::swap(own.order[i], own.order[count - 1 - i]);
    } else if (order == SIMT_SHUFFLED) {
        unsigned long long random = 1;
        for (size_t i = count - 1; i > 0; --i) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            std::swap(own.order[i], own.order[(random >> 33) % (i + 1)]);
        }
    }
    for (Warp& warp : own.warps) warp.order.clear();
    for (Fiber* fiber : own.order) fiber->warp->order.push_back(fiber);
}

// Makes the fibers of a block; they serve for all of a launch.
void build(Machine& own, SimtOrder order) {
    const unsigned threads = own.kernel->threads, warp = own.kernel->warp;
    while (stacks.size() < threads) stacks.push_back(std::make_unique<Stack>());
    own.fibers.assign(threads, Fiber());
    own.warps.assign(threads / warp, Warp());
    own.ready.assign(threads, nullptr);
    for (unsigned i = 0; i < threads; ++i) {
        Fiber& fiber = own.fibers[i];
        fiber.index = {i, 0, 0};
        fiber.block = &own;
        fiber.lane = i % warp;
        fiber.warp = &own.warps[i / warp];
    }
    arrange(own, order);
    own.arrays.clear();
}

// Runs the block at `own.index`.
void run_block(Machine& own) {
    own.epoch = 1;
    own.arrived = own.left = 0;
    own.ready_first = own.ready_count = 0;
    for (Warp& warp : own.warps) warp.arrived = warp.left = 0;
    for (auto& memory : own.arrays) {
        memset(memory->data.data(), 0xff, memory->data.size());
        memset(memory->cells.data(), 0, memory->cells.size() * sizeof(Cell));
    }
    for (size_t i = 0; i < own.fibers.size(); ++i) {
        own.fibers[i].turn = 0;
        own.fibers[i].copies.assign(1, {});
        // Tops at different distances, lest all stacks compete for the same lines of the cache.
        start(own.fibers[i].context, stacks[i]->start(), Stack::BYTES - i % 61 * 64, run);
    }
    for (Fiber* fiber : own.order) own.wake(fiber);
    Fiber* first = own.next();
    current = first;
    swap(own.host, first->context);
    current = nullptr;
}

}  // namespace

Thread* current = nullptr;

void Registration::enlist() {
    registrations().push_back(this);
}

void fail(const char* format, ...) {
    Fiber& self = static_cast<Fiber&>(*current);
    Machine& own = static_cast<Machine&>(*self.block);
    char reason[512];
    va_list values;
    va_start(values, format);
    vsnprintf(reason, sizeof reason, format, values);
    va_end(values);
    char place[128];
    snprintf(place, sizeof place, " (block %u, %u, %u, thread %u)", own.index.x, own.index.y, own.index.z, self.index.x);
    *own.error = std::string(own.kernel->name) + ": " + reason + place;
    // The other fibers are forgotten where they stand.
    swap(self.context, own.host);
    __builtin_unreachable();
}

void barrier(const char* file, int line) {
    Machine& own = static_cast<Machine&>(*current->block);
    const Site site = {"barrier", file, line};
    if (own.left > 0) fail("the barrier at %s:%d is reached after %u threads have left", file, line, own.left);
    if (own.arrived == 0) own.site = site;
    if (!(own.site == site)) {
        fail("divergent barriers: at %s:%d, and others of the block at %s:%d", file, line, own.site.file, own.site.line);
    }
    if (++own.arrived < own.fibers.size()) return wait();
    own.arrived = 0;
    ++own.epoch;
    for (Fiber* fiber : own.order) {
        if (fiber != current) own.wake(fiber);
    }
}

unsigned lane() {
    return static_cast<Fiber&>(*current).lane;
}

unsigned lanes() {
    return (unsigned)static_cast<Fiber&>(*current).warp->order.size();
}

const Brought* gather(const Brought& own, const char* what, const char* file, int line) {
    Fiber& self = static_cast<Fiber&>(*current);
    Warp& warp = *self.warp;
    const Site site = {what, file, line};
    if (warp.left > 0) {
        fail("the %s at %s:%d is reached after %u lanes of the warp have left", what, file, line, warp.left);
    }
    if (warp.arrived == 0) warp.site = site;
    if (!(warp.site == site)) {
        fail("divergent %ss: at %s:%d, and others of the warp at %s:%d", what, file, line, warp.site.file, warp.site.line);
    }
    const unsigned turn = self.turn;
    self.turn = 1 - turn;
    warp.brought[turn][self.lane] = own;
    if (++warp.arrived < warp.order.size()) {
        wait();
    } else {
        warp.arrived = 0;
        for (Fiber* fiber : warp.order) {
            if (fiber != &self) static_cast<Machine&>(*self.block).wake(fiber);
        }
    }
    return warp.brought[turn];
}

std::vector<std::vector<Copy>>& copies() {
    return static_cast<Fiber&>(*current).copies;
}

Array declared_array(const void* site, const char* name, size_t count, size_t size) {
    Machine& own = static_cast<Machine&>(*current->block);
    for (auto& memory : own.arrays) {
        if (memory->site == site) return {memory->data.data(), memory->cells.data(), memory->cells.size(), memory->name.c_str()};
    }
    own.arrays.push_back(std::make_unique<Memory>());
    Memory& memory = *own.arrays.back();
    memory.site = site;
    memory.name = name;
    memory.data.assign(count * size, (char)0xff);
    memory.cells.assign(count, Cell());
    return {memory.data.data(), memory.cells.data(), count, memory.name.c_str()};
}

Array dynamic_array(const char* name, size_t size) {
    Machine& own = static_cast<Machine&>(*current->block);
    return declared_array(&own.shared_bytes, name, own.shared_bytes / size, size);
}

}  // namespace simt

const SimtKernel* simt_kernel(const char* name) {
    for (simt::Registration* kernel : simt::registrations()) {
        if (strcmp(kernel->name, name) == 0) return kernel;
    }
    return nullptr;
}

const unsigned* simt_parameter_bytes(const SimtKernel* kernel) {
    return kernel->parameter_bytes.data();
}

const char* simt_launch(const SimtKernel* kernel, const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                        void* const* arguments, SimtOrder order) {
    static thread_local std::string error;
    error.clear();
    if (block[0] != kernel->threads || block[1] != 1 || block[2] != 1) {
        error = std::string(kernel->name) + ": launched with blocks of another size than it was compiled for";
        return error.c_str();
    }
    if (grid[0] == 0 || grid[1] == 0 || grid[2] == 0) {
        error = std::string(kernel->name) + ": launched with an empty grid";
        return error.c_str();
    }
    const std::lock_guard<std::mutex> guard(simt::busy);
    simt::Machine& own = simt::machine;
    own.kernel = kernel;
    own.arguments = arguments;
    own.shared_bytes = shared_bytes;
    own.grid = {grid[0], grid[1], grid[2]};
    own.size = {block[0], block[1], block[2]};
    own.error = &error;
    simt::build(own, order);
    for (unsigned z = 0; error.empty() && z < grid[2]; ++z) {
        for (unsigned y = 0; error.empty() && y < grid[1]; ++y) {
            for (unsigned x = 0; error.empty() && x < grid[0]; ++x) {
                own.index = {x, y, z};
                simt::run_block(own);
            }
        }
    }
    return error.empty() ? nullptr : error.c_str();
}
