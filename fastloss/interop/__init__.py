"""The losses inside automatic differentiation: ``fastloss.interop.torch``, ``fastloss.interop.jax``.

Each module imports its library, which therefore must be there; nothing else in fastloss does.
"""
