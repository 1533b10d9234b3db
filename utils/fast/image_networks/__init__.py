"""E, G and D with less work; the twin is `modules_sdf.PlainExecution`.

`execution` chooses precision and form, `parts` computes a region of a map, `joined_convolution`
convolves coarse maps before it resizes them, `sparse_blending` takes only the samples that count,
`sparse_rows` sums few rows of a table. torch.compile was tried: no gain on a CPU.
"""
