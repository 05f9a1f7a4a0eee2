"""The commands of `ignite`, each in a module."""
