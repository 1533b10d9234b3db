"""What a GPU is worth: all that `measure_gpu.py` measures, in order of worth.

`measuring` chooses the parts and writes their figures; `setup` says what they share. The parts:
`correctness` (kernel, tracer and training step against those of the CPU, waits of the host),
`training_runs` (held-out PSNR over seconds), `frames` (new views a second), `options` (a step with
each option on and off; `memory` computes what it takes), `profiling` (the longest kernels of a
step), `meta_run` (weights meta-trained on synthetic scenes). Each also runs on a CPU, in little.
"""
