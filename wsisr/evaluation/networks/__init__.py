"""Networks of learned measures: short definitions that take the published weights as they are.

Each is proven equal to an independent computation in the tests. Sizes come from the weights, so
that small random ones test the same code.
"""
