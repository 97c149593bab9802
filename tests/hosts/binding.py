"""What `examples/python/grok1.py` does beside its own main: binding.py MODEL"""

import sys

import grok1

model = grok1.Model(sys.argv[1])
tokenizer = model.tokenizer()
tokens = tokenizer.encode("The king")
assert tokenizer.decode(tokens) == "The king"
assert tokenizer.encode(" king", continuation=True) == tokens[1:]

greedy = grok1.Sampler(temperature=0)
session = model.session()
del model  # the session keeps it
whole = [piece.token for piece in session.generate(tokens, greedy, max_tokens=12)]
assert len(whole) == 12

# Cancelled in the middle, it goes on from there.
session.truncate(0)
cancel = grok1.Cancel()
some = []
try:
    for piece in session.generate("The king", greedy, cancel=cancel):
        some.append(piece.token)
        if len(some) == 5:
            cancel.set()
    raise AssertionError("not cancelled")
except grok1.Error as error:
    assert error.status == grok1.ERR_CANCELLED and error.name == "cancelled", error
cancel.clear()
some += [piece.token for piece in session.generate("", greedy, max_tokens=7, cancel=cancel)]
assert some == whole, (some, whole)

last = None
for last in session.generate("", greedy, stop=["e"]):
    assert "e" not in last.text
assert last.finish == "stop"

for wrong in [lambda: grok1.Sampler(top_p=3.0), lambda: session.push([1 << 20]) or list(session.generate("", greedy))]:
    try:
        wrong()
        raise AssertionError("no error")
    except grok1.Error as error:
        assert error.status == grok1.ERR_ARGUMENT, error
