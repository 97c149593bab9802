#!/usr/bin/env python3
"""A binding of libgrok1 for Python in one file, with nothing but ctypes: python3 grok1.py MODEL PROMPT

The library is the one that the environment variable GROK1_LIBRARY names, or else the system's.

    model = Model("checkpoints/ckpt-0")
    session = model.session()
    for piece in session.generate("The answer to life", Sampler(temperature=0.7, seed=42), max_tokens=100):
        print(piece.text, end="", flush=True)
"""

import ctypes
import ctypes.util
import os
import sys
from ctypes import POINTER, Structure, byref, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_uint64, c_void_p, sizeof
from typing import Iterator, NamedTuple, Optional, Sequence, Union

OK, ERR_ARGUMENT, ERR_FORMAT, ERR_CANCELLED, ERR_CONTEXT_FULL, ERR_ENDED = 0, 100, 200, 400, 401, 406
FINISH = {0: None, 1: "end of text", 2: "stop", 3: "max tokens", 4: "context full"}

# ---- grok1.h, as far as it is used here ----

_lib = ctypes.CDLL(os.environ.get("GROK1_LIBRARY") or ctypes.util.find_library("grok1") or "libgrok1.so.0")


class _ModelOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("tokenizer", c_char_p), ("kv_limit", c_uint64), ("batch_rows", c_size_t),
        ("pool", c_void_p), ("threads", c_uint32), ("precision", c_int32), ("kv_type", c_int32), ("weights", c_int32),
        ("device", c_char_p), ("kernel_cache", c_char_p), ("gpu_layers", c_int32), ("experts_on_cpu", c_int32),
    ]


class _Control(Structure):
    _fields_ = [("struct_size", c_size_t), ("cancel", c_void_p), ("progress", c_void_p), ("progress_user", c_void_p)]


class _SamplerOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("seed", c_uint64), ("top_k", c_size_t), ("penalty_window", c_size_t),
        ("logit_bias", c_void_p), ("n_logit_bias", c_size_t),
        ("allowed_tokens", POINTER(c_uint32)), ("n_allowed_tokens", c_size_t),
        ("temperature", c_float), ("top_p", c_float), ("min_p", c_float), ("repetition_penalty", c_float),
        ("presence_penalty", c_float), ("frequency_penalty", c_float), ("alternatives", c_uint32), ("logprobs", c_int32),
    ]


class _Text(Structure):
    _fields_ = [("data", c_char_p), ("len", c_size_t)]


class _GenerationOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("max_tokens", c_size_t), ("stop", POINTER(_Text)), ("n_stop", c_size_t),
        ("ignore_end_of_text", c_int32), ("reserved", c_int32),
    ]


class _Token(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("text", c_void_p), ("text_len", c_size_t), ("alternatives", c_void_p),
        ("n_alternatives", c_size_t), ("index", c_size_t), ("id", c_uint32), ("logprob", c_float),
        ("finish", c_int32), ("stop_index", c_uint32),
    ]


def _declare(name: str, *arguments, result=None) -> None:
    function = getattr(_lib, "grok1_" + name)
    function.argtypes, function.restype = arguments, result


for _noun in "error", "cancel", "model", "session", "sampler", "generation", "tokenizer":
    _declare(_noun + "_free", c_void_p)
for _noun in "control", "model_options", "sampler_options", "generation_options":
    _declare(_noun + "_init", c_void_p, c_size_t)
for _verb in "set", "clear":
    _declare("cancel_" + _verb, c_void_p)
_declare("error_message", c_void_p, result=c_char_p)
_declare("status_name", c_int32, result=c_char_p)

# The functions that can fail: what comes before the error.
_tokens = POINTER(c_uint32)
for _name, _arguments in {
    "cancel_new": [c_void_p],
    "model_load": [c_char_p, c_void_p, c_void_p, c_void_p],
    "model_get_tokenizer": [c_void_p, c_void_p],
    "session_new": [c_void_p, c_void_p, c_void_p],
    "session_push": [c_void_p, _tokens, c_size_t],
    "session_push_text": [c_void_p, c_char_p, c_size_t],
    "session_truncate": [c_void_p, c_size_t],
    "sampler_new": [c_void_p, c_void_p],
    "generation_new": [c_void_p, c_void_p],
    "generation_next": [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_size_t],
    "tokenizer_encode": [c_void_p, c_char_p, c_size_t, c_int32, _tokens, c_size_t, POINTER(c_size_t)],
    "tokenizer_decode": [c_void_p, _tokens, c_size_t, c_char_p, c_size_t, POINTER(c_size_t)],
}.items():
    _declare(_name, *_arguments, c_void_p, result=c_int32)

# ---- The binding ----


class Error(Exception):
    """What went wrong: `status` says what to do, the text says it to people."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.name = _lib.grok1_status_name(status).decode()


def _call(name: str, *arguments) -> None:
    error = c_void_p()
    status = getattr(_lib, "grok1_" + name)(*arguments, byref(error))
    if status != OK:
        message = _lib.grok1_error_message(error).decode()
        _lib.grok1_error_free(error)
        raise Error(status, message)


def _twice(name: str, make, *arguments):
    """The form that is called twice: how much is needed, then the values."""
    needed = c_size_t()
    _call(name, *arguments, None, 0, byref(needed))
    buffer = make(needed.value)
    _call(name, *arguments, buffer, needed, byref(needed))
    return buffer


def _array(tokens: Sequence[int]):
    return (c_uint32 * len(tokens))(*tokens)


class _Handle:
    """Owns what C made. Handles may be freed in any order, so the garbage collector may do it."""

    _as_parameter_ = None  # what ctypes passes in its place

    def __init__(self, name: str, *arguments):
        self._free = getattr(_lib, f"grok1_{type(self).__name__.lower()}_free")
        made = c_void_p()
        _call(name, *arguments, byref(made))
        self._as_parameter_ = made

    def __del__(self):
        if self._as_parameter_:
            self._free(self._as_parameter_)


class Cancel(_Handle):
    """Stops the calls that it was given to, from any thread or signal handler."""

    def __init__(self):
        super().__init__("cancel_new")

    def set(self) -> None:
        _lib.grok1_cancel_set(self)

    def clear(self) -> None:
        _lib.grok1_cancel_clear(self)


class Tokenizer(_Handle):
    def __init__(self, model: "Model"):
        super().__init__("model_get_tokenizer", model)

    def encode(self, text: str, continuation: bool = False) -> "list[int]":
        data = text.encode()
        return list(_twice("tokenizer_encode", lambda n: (c_uint32 * n)(), self, data, len(data), continuation))

    def decode(self, tokens: Sequence[int]) -> str:
        return _twice("tokenizer_decode", ctypes.create_string_buffer, self, _array(tokens), len(tokens)).raw.decode()


class Sampler(_Handle):
    """Settings are those of `grok1_sampler_options`: temperature, top_p, top_k, seed."""

    def __init__(self, **settings):
        options = _SamplerOptions()
        _lib.grok1_sampler_options_init(byref(options), sizeof(options))
        for name, value in settings.items():
            if name not in ("seed", "top_k", "penalty_window", "temperature", "top_p", "min_p", "repetition_penalty",
                            "presence_penalty", "frequency_penalty"):
                raise TypeError(f"no such setting: {name}")
            setattr(options, name, value)
        super().__init__("sampler_new", byref(options))


class Piece(NamedTuple):
    token: int
    text: str
    logprob: float
    finish: Optional[str]


class Generation(_Handle):
    """A generation under way: its limits, and the text that is held back."""

    def __init__(self, max_tokens: Optional[int] = None, stop: Sequence[str] = ()):
        options = _GenerationOptions()
        _lib.grok1_generation_options_init(byref(options), sizeof(options))
        if max_tokens is not None:
            options.max_tokens = max_tokens
        texts = [text.encode() for text in stop]
        options.stop = (_Text * len(texts))(*((text, len(text)) for text in texts))
        options.n_stop = len(texts)
        super().__init__("generation_new", byref(options))


class Session(_Handle):
    """One sequence. One thread at a time may use it."""

    def __init__(self, model: "Model"):
        super().__init__("session_new", model, None)

    def push(self, prompt: Union[str, Sequence[int]]) -> None:
        if isinstance(prompt, str):
            data = prompt.encode()
            _call("session_push_text", self, data, len(data))
        else:
            _call("session_push", self, _array(prompt), len(prompt))

    def truncate(self, length: int) -> None:
        _call("session_truncate", self, length)

    def generate(
        self, prompt: Union[str, Sequence[int]], sampler: Sampler, max_tokens: Optional[int] = None,
        stop: Sequence[str] = (), cancel: Optional[Cancel] = None,
    ) -> Iterator[Piece]:
        """Goes on from the prompt, piece by piece."""
        control = _Control()
        _lib.grok1_control_init(byref(control), sizeof(control))
        if cancel is not None:
            control.cancel = cancel._as_parameter_
        generation, token = Generation(max_tokens, stop), _Token()
        self.push(prompt)
        while True:
            try:
                _call("generation_next", generation, self, sampler, byref(control), byref(token), sizeof(token))
            except Error as error:
                if error.status == ERR_ENDED:
                    return
                raise
            text = ctypes.string_at(token.text, token.text_len).decode()
            yield Piece(token.id, text, token.logprob, FINISH.get(token.finish))


class Model(_Handle):
    """A loaded model. May be used from any thread.

    Options are those of `grok1_model_options`: device ("cuda:0", "auto"), gpu_layers, experts_on_cpu, threads.
    """

    def __init__(self, path: Union[str, os.PathLike], **options):
        settings = _ModelOptions()
        _lib.grok1_model_options_init(byref(settings), sizeof(settings))
        for name, value in options.items():
            if name in ("tokenizer", "device", "kernel_cache"):
                value = os.fsencode(value)
            elif name not in ("kv_limit", "batch_rows", "threads", "precision", "kv_type", "weights", "gpu_layers",
                              "experts_on_cpu"):
                raise TypeError(f"no such option: {name}")
            setattr(settings, name, value)
        super().__init__("model_load", os.fsencode(path), byref(settings), None)

    def session(self) -> Session:
        return Session(self)

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self)


def main() -> int:
    if len(sys.argv) != 3:
        print(f"usage: {sys.argv[0]} MODEL PROMPT", file=sys.stderr)
        return 2
    try:
        session = Model(sys.argv[1]).session()
        print(sys.argv[2], end="")
        for piece in session.generate(sys.argv[2], Sampler(temperature=0.7, top_p=0.95, seed=42), max_tokens=100):
            print(piece.text, end="", flush=True)
        print()
    except Error as error:
        print(f"{error.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
