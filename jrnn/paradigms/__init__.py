"""The ways from sequences to answers: many to one, one to many, delayed, autoregressive."""

from jrnn.paradigms.reading import ManyToOne as ManyToOne
from jrnn.paradigms.reading import last as last
from jrnn.paradigms.reading import many_to_one as many_to_one
from jrnn.paradigms.writing import autoregressive as autoregressive
from jrnn.paradigms.writing import delayed as delayed
from jrnn.paradigms.writing import forecast as forecast
from jrnn.paradigms.writing import one_to_many as one_to_many
