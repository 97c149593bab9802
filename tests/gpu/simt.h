// SIMT on the processor: runs kernels written with src/backend/gpu/kernels/portable.h, one fiber per thread of a block.
//
// To compile a module, its text and the files it includes being in FOLDER:
//
//   g++ -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -ffp-contract=off -fno-strict-aliasing -include simt.h -I FOLDER
//       -x c++ module.cu simt.cpp -o module.so
//
// It works for any warp size up to 64: a module says its own by WARP. The library exports the functions in the block `extern "C"`
// below. Launches may come from several threads of the host, but a module runs one at a time, block after block; memory is the host's.
//
// What makes a launch fail, with a message that names the place and the thread:
//   - a block of other than THREADS threads, or an empty grid;
//   - a barrier that not all threads of the block reach, or which they reach at different places of the source;
//   - a shuffle, or another collective of the warp, that not all lanes reach, or at different places, or after one of them has left the
//     kernel;
//   - shared memory: an index beyond the end, an element read before it was written, and races: an element that one thread writes and
//     another reads or writes with no barrier between, whatever the order in which they happen to run. What is copied there behind the
//     thread's back counts as written when the copy begins and when it is waited for, and is NaNs in between.
// What it cannot see: accesses to global memory, and races there.
#pragma once
#include <math.h>
#include <stddef.h>

#include <type_traits>
#include <utility>
#include <vector>

#define SIMT_HOST

// ---- For the host ----

namespace simt {
struct Registration;
}
typedef simt::Registration SimtKernel;

// Order in which threads of a block and lanes of a warp go on, where they may: a kernel has to give the same in all.
enum SimtOrder { SIMT_FORWARD, SIMT_REVERSE, SIMT_SHUFFLED };

extern "C" {
// The kernel of this name, or null.
__attribute__((visibility("default"))) const SimtKernel* simt_kernel(const char* name);

// Bytes of each of its parameters; a 0 ends the list.
__attribute__((visibility("default"))) const unsigned* simt_parameter_bytes(const SimtKernel* kernel);

// Runs all blocks. `arguments[i]` points at the value of parameter `i`, as in cuLaunchKernel. Null, or why it failed, which this thread
// of the host may read until its next launch.
__attribute__((visibility("default"))) const char* simt_launch(const SimtKernel* kernel, const unsigned grid[3],
                                                               const unsigned block[3], unsigned shared_bytes,
                                                               void* const* arguments, SimtOrder order);
}

// ---- For the kernels ----

namespace simt {

struct Dim {
    unsigned x, y, z;
};

struct Block {
    Dim index, size, grid;
    unsigned epoch; // barriers passed, plus one
};

struct Thread {
    Dim index;
    Block* block;
};

// Who runs. Not a variable of the host's thread: those of many modules do not fit where they would be fast.
extern Thread* current;

// Ends the launch.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void barrier(const char* file, int line);

// What a lane brings to a collective of its warp.
struct Brought {
    unsigned long long words[3];
};

// All lanes of the warp bring something to `what`. Gives what each brought, by lane, for as long as the thread takes part in no other.
const Brought* gather(const Brought& own, const char* what, const char* file, int line);

// The lane of the running thread, of how many.
unsigned lane();
unsigned lanes();

// Who used an element of shared memory last, and after which barrier.
struct Cell {
    unsigned written, writer, read, reader;

    static constexpr unsigned SEVERAL = ~0u;

    void on_read(const char* name, size_t index) {
        const unsigned epoch = current->block->epoch, self = current->index.x;
        if (written == 0) fail("%s[%zu] is read before it was written", name, index);
        if (written == epoch && writer != self) {
            fail("race: %s[%zu] is read with no barrier since thread %u wrote it", name, index, writer);
        }
        reader = read == epoch && reader != self ? SEVERAL : self;
        read = epoch;
    }

    void on_write(const char* name, size_t index) {
        const unsigned epoch = current->block->epoch, self = current->index.x;
        if (written == epoch && writer != self) {
            fail("race: %s[%zu] is written with no barrier since thread %u wrote it", name, index, writer);
        }
        if (read == epoch && reader != self) {
            fail("race: %s[%zu] is written with no barrier since another thread read it", name, index);
        }
        written = epoch;
        writer = self;
    }
};

// Shared memory as the module declares it.
struct Array {
    void* data;
    Cell* cells;
    size_t count;
    const char* name;
};

// The array of the running block that is declared at `site`.
Array declared_array(const void* site, const char* name, size_t count, size_t size);

// The memory whose size the launch gives.
Array dynamic_array(const char* name, size_t size);

// What kernels use like a pointer into shared memory.
template <class T>
class Shared {
    T* data_;
    Cell* cells_;
    size_t count_;
    const char* name_;

    Shared(T* data, Cell* cells, size_t count, const char* name)
        : data_(data), cells_(cells), count_(count), name_(name) {}

  public:
    explicit Shared(const Array& array) : Shared((T*)array.data, array.cells, array.count, array.name) {}

    class Element {
        const Shared& array_;
        size_t index_;

      public:
        Element(const Shared& array, size_t index) : array_(array), index_(index) {
            if (index >= array.count_) {
                fail("%s[%zd] is beyond its %zu elements", array.name_, (ptrdiff_t)index, array.count_);
            }
        }
        operator T() const {
            array_.cells_[index_].on_read(array_.name_, index_);
            return array_.data_[index_];
        }
        void operator=(T value) const {
            array_.cells_[index_].on_write(array_.name_, index_);
            array_.data_[index_] = value;
        }
        void operator=(const Element& other) const { *this = (T)other; }
        void operator+=(T value) const { *this = (T)*this + value; }
    };

    Element operator[](size_t index) const { return Element(*this, index); }

    const T* address() const { return data_; }

    Shared operator+(size_t offset) const {
        if (offset > count_) fail("%s + %zd is beyond its %zu elements", name_, (ptrdiff_t)offset, count_);
        return Shared(data_ + offset, cells_ + offset, count_ - offset, name_);
    }
};

// A kernel as it stands in the module.
struct Registration {
    template <class... A>
    Registration(const char* name, void (*function)(A...), unsigned warp, unsigned threads)
        : name(name), function((void*)function), warp(warp), threads(threads),
          invoke([](void* function, void* const* arguments) {
              call((void (*)(A...))function, arguments, std::index_sequence_for<A...>());
          }),
          parameter_bytes{(unsigned)sizeof(A)..., 0} {
        enlist();
    }

    const char* name;
    void* function;
    unsigned warp, threads;
    void (*invoke)(void* function, void* const* arguments);
    std::vector<unsigned> parameter_bytes;

  private:
    template <class... A, size_t... I>
    static void call(void (*function)(A...), void* const* arguments, std::index_sequence<I...>) {
        function(*(std::remove_cv_t<A>*)arguments[I]...);
    }
    void enlist();
};

}  // namespace simt

using simt::Shared;

#define __device__
#define threadIdx (simt::current->index)
#define blockIdx (simt::current->block->index)
#define blockDim (simt::current->block->size)
#define gridDim (simt::current->block->grid)

#define SIMT_KERNEL(name, ...)                                                          \
    static void name(__VA_ARGS__);                                                      \
    static const simt::Registration name##_registration(#name, name, WARP, THREADS);    \
    static void name(__VA_ARGS__)
#define KERNEL(name, ...) SIMT_KERNEL(name, __VA_ARGS__)

#define SHARED(type, name, count) \
    static char name##_site;      \
    const simt::Shared<type> name(simt::declared_array(&name##_site, #name, count, sizeof(type)))
#define DYNAMIC_SHARED(type, name) const simt::Shared<type> name(simt::dynamic_array(#name, sizeof(type)))
#define TABLE(type, name, count) static const type name[count]

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    simt::barrier(file, line);
}

inline float shuffle_xor(float value, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    union {
        float value;
        unsigned bits;
    } own = {value}, other;
    const unsigned lane = simt::lane() ^ mask;
    if (lane >= simt::lanes()) simt::fail("the shuffle at %s:%d asks for lane %u", file, line, lane);
    other.bits = (unsigned)simt::gather({{own.bits}}, "shuffle", file, line)[lane].words[0];
    return other.value;
}

// What is taken at once has to be aligned.
template <class T>
void check_alignment(const Shared<T>& shared, size_t bytes = 16) {
    static_assert(sizeof(T) == 4, "four of them are 16 bytes");
    if ((size_t)shared.address() % bytes != 0) simt::fail("%zu bytes of shared memory are not aligned", bytes);
}

template <class T>
struct Four {
    T values[4];
};

template <class T>
Four<T> load_four(const Shared<T>& shared) {
    check_alignment(shared);
    return {{shared[0], shared[1], shared[2], shared[3]}};
}

template <class T>
void store_four(const Shared<T>& shared, const Four<T>& four) {
    check_alignment(shared);
    for (int i = 0; i < 4; ++i) shared[i] = four.values[i];
}

template <class T>
struct Both {
    T values[2];
};

template <class T>
Both<T> load_both(const Shared<T>& shared) {
    check_alignment(shared, 8);
    return {{shared[0], shared[1]}};
}

template <class T>
const unsigned char* bytes_of(const Shared<T>& shared, int count) {
    for (int i = 0; i < count; ++i) (void)(T)shared[i];
    return (const unsigned char*)shared.address();
}

// ---- mma.h ----

namespace simt {

// Half `index` of a word: a bf16.
inline float bf16_of(unsigned long long word, int index) {
    union {
        unsigned bits;
        float value;
    } both = {(unsigned)(word >> 16 * index) << 16};
    return both.value;
}

// The thread's copies that have begun, in groups of which the last is open.
struct Copy {
    Shared<unsigned> to;
    Four<unsigned> words;
};
std::vector<std::vector<Copy>>& copies();

// The four words of a row of an 8x8 matrix of bf16.
inline Brought row_of(const Shared<unsigned>& row) {
    const Four<unsigned> four = load_four(row);
    const unsigned long long low = four.values[1], high = four.values[3];
    return {{four.values[0] | low << 32, four.values[2] | high << 32}};
}

}  // namespace simt

inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2],
                         const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const unsigned long long words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const simt::Brought own = {{words[0] | words[1] << 32, words[2] | words[3] << 32, words[4] | words[5] << 32}};
    const simt::Brought* all = simt::gather(own, "mma", file, line);
    const unsigned lane = simt::lane();
    for (unsigned i = 0; i < 4; ++i) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; ++k) {
            // Lanes hold pairs of neighbours along k; registers are row halves within halves of k for `a`, halves of k for `b`.
            const unsigned pair = k % 8 / 2, half = k / 8;
            const float x = simt::bf16_of(all[row % 8 * 4 + pair].words[half], row / 8 * 2 + k % 2);
            const float y = simt::bf16_of(all[column * 4 + pair].words[2], half * 2 + k % 2);
            sum[i] = fmaf(x, y, sum[i]);
        }
    }
}

inline void load_matrices(unsigned (&out)[4], const Shared<unsigned>& row, const char* file = __builtin_FILE(),
                          int line = __builtin_LINE()) {
    const simt::Brought* all = simt::gather(simt::row_of(row), "ldmatrix", file, line);
    const unsigned own = simt::lane() / 4, pair = simt::lane() % 4;
    for (unsigned i = 0; i < 4; ++i) out[i] = (unsigned)(all[i * 8 + own].words[pair / 2] >> pair % 2 * 32);
}

inline void load_matrices_transposed(unsigned (&out)[4], const Shared<unsigned>& row,
                                     const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const simt::Brought* all = simt::gather(simt::row_of(row), "ldmatrix", file, line);
    const unsigned own = simt::lane() / 4, pair = simt::lane() % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
        const auto half = [&](unsigned k) { return all[i * 8 + k].words[own / 4] >> own % 4 * 16 & 0xffff; };
        out[i] = (unsigned)(half(pair) | half(pair + 1) << 16);
    }
}

inline void copy_async(const Shared<unsigned>& to, const void* from, bool real) {
    if ((size_t)from % 16 != 0) simt::fail("16 bytes to copy are not aligned");
    simt::Copy copy = {to, {}};
    for (int i = 0; real && i < 4; ++i) copy.words.values[i] = ((const unsigned*)from)[i];
    store_four(to, {{~0u, ~0u, ~0u, ~0u}});
    simt::copies().back().push_back(copy);
}

inline void end_copies() {
    simt::copies().emplace_back();
}

template <int LATER>
void wait_copies() {
    auto& groups = simt::copies();
    while (groups.size() > LATER + 1) {
        for (const simt::Copy& copy : groups.front()) store_four(copy.to, copy.words);
        groups.erase(groups.begin());
    }
}
