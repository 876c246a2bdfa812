"""fusedce's losses with the interfaces of PyTorch, JAX, Caffe and the boosting libraries.

The modules torch and jax import their framework, caffe only where it is installed, and boosting
imports no boosting library.
"""
