"""The same numbers to rounding, sooner. Each module names its plain twin, which the tests compare.

Only `sdf_rendering.make_tracer`, `modules_unet`, `realtime/`, `stages/` and
`utils/runs/loop` import it; without it `--tracer reference` still trains. Here are threads that
take a chunk of rows through a whole network (`threads`), gradients chunk by chunk
(`chunked_autograd`) and the allocator's settings (`memory`); the packages hold the rest. What bf16,
oneDNN and numba need stays inside this wall, so that the method reads without it.
"""
