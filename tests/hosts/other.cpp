// The second file of `every.cpp`: the header may stand in several, and twice in one.

#include "grok1.hpp"
#include "grok1.hpp"

std::size_t vocabulary(const grok1::model &model);

std::size_t vocabulary(const grok1::model &model) { return model.config().vocab; }
