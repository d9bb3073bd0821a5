"""The only room that imports ray: what the library does, spread over a cluster.

Each job has a module of its own and is imported from there, so that no job and no worker loads what only
another one needs.
"""
