"""Image steps and frames that are recorded once and replayed (`--cuda_graphs 1`).

What is recorded is what runs without it; `utils.fast.replays` says how. What the host decides stays
outside: which views are drawn, which are traced before, learning rates, matrices that are inverted
for rays (libraries of linear algebra cannot be recorded).
"""
