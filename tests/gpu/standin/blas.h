// What the stand-ins for cuBLASLt and rocBLAS share: a product on the processor, queued on the stand-in of the driver.
//
// What can be set, by environment variables:
//   STANDIN_BLAS_STATUS      with which every product fails: 0
//   STANDIN_BLAS_ALGORITHMS  how many algorithms there are for a shape: 1
#pragma once
#include "driver.h"

namespace standin {

// The driver of this process, which is another library: the one that the program has loaded.
inline Driver& driver_of(const char* library) {
    void* loaded = dlopen(library, RTLD_NOW | RTLD_NOLOAD);
    auto get = loaded ? (Driver * (*)()) dlsym(loaded, "standin_driver") : nullptr;
    if (!get) fail(std::string("no stand-in for ") + library);
    return *get();
}

inline float bf16(const uint16_t* at) {
    const uint32_t bits = (uint32_t)*at << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// A matrix as BLAS has it, column by column.
struct Columns {
    void* data;
    int64_t rows, columns, stride;

    size_t bytes(size_t element) const { return ((columns - 1) * stride + rows) * element; }
};

// d = a * b + sum * d, or with a transposed: bf16 by bf16, f32 the result. False if that cannot be.
inline bool queue_product(Driver& driver, void* stream, Columns a, bool transposed, Columns b, float sum, Columns d) {
    const int64_t rows = transposed ? a.columns : a.rows, inputs = transposed ? a.rows : a.columns;
    if (rows != d.rows || b.columns != d.columns || inputs != b.rows) return false;
    for (const Columns& matrix : {a, b, d}) {
        if (matrix.rows <= 0 || matrix.columns <= 0 || matrix.stride < matrix.rows) return false;
    }
    Memory& memory = driver.memory();
    if (!memory.holds(a.data, a.bytes(2)) || !memory.holds(b.data, b.bytes(2)) || !memory.holds(d.data, d.bytes(4))) return false;
    return driver.queue(stream, [=] {
        for (int64_t column = 0; column < d.columns; ++column) {
            for (int64_t row = 0; row < rows; ++row) {
                double total = 0;
                for (int64_t i = 0; i < inputs; ++i) {
                    const int64_t at = transposed ? row * a.stride + i : i * a.stride + row;
                    total += (double)bf16((const uint16_t*)a.data + at) * bf16((const uint16_t*)b.data + column * b.stride + i);
                }
                float* out = (float*)d.data + column * d.stride + row;
                // What is there may be no number, and then counts only if it is asked for.
                *out = (float)(sum == 0 ? total : total + (double)sum * *out);
            }
        }
    }) == SUCCESS;
}

}  // namespace standin
