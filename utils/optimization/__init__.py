"""What updates of weights need beside the optimiser: groups, an average, checks that all is finite.

Here are which parts of a model are trained and at which learning rates (`parameter_groups`), the
moving average of weights that renders views (`weight_average`), and how losses and gradients that
are not finite are kept away from the weights (`finite`). Optimisers are torch's own. Learning
rates as a function of the step are in `scheduler`, what a run does after a failure in
`utils.runs.recovery`.
"""
