"""All traversal of jaxprs.

programs     a traced function as a list of ops over numbered values, and how to run a part of it
regions      equations that must stay together, as they change the mesh
naming       the values that a function names with `checkpoint_name`: read, replaced, shifted
equations    a jaxpr equation by equation, for export
"""
