"""All traversal of jaxprs.

programs     the ops of a traced function, in a list over numbered values, and how to run a part of them
regions      equations that must stay together, because they change the mesh
naming       the values that a function names with `checkpoint_name`: read, replaced, shifted
equations    a jaxpr equation by equation, for export
"""
