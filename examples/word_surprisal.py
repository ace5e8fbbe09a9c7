"""Surprisal of every word of a sentence, in nats and in bits."""

import nll

sentence = "The old man the boats, and the children the oars."
words = sentence.split()

model = nll.load()
[trace] = model.trace([sentence])

nats = nll.scores.word_surprisal(trace)
bits = nll.scores.word_surprisal(trace, base="bits")

for word, in_nats, in_bits in zip(words, nats, bits, strict=True):
    print(f"{word:10} {in_nats:7.2f} nats {in_bits:7.2f} bits  {'#' * int(max(0, in_nats))}")
