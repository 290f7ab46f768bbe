"""The LSTM variants of two published ablation studies, by their names in the papers."""

from typing import Literal

from jrnn.cells.lstm_variant import LSTMVariant


def greff(hidden: int) -> dict[str, LSTMVariant]:
    """The vanilla LSTM V, with peepholes, and its eight variants in the study.

    Args:
      hidden: width of every cell.

    Returns:
      Cells by name: V, NIG, NFG, NOG (no input, forget, output gate), NIAF, NOAF (no input, output
      activation), CIFG (coupled gates), NP (no peepholes), FGR (full gate recurrence).

    Reference: Greff, Srivastava, Koutník, Steunebrink, Schmidhuber, LSTM: a search space odyssey, 2017,
    arXiv:1503.04069.

    >>> greff(8)["CIFG"].coupled
    True
    """
    p: Literal["diagonal"] = "diagonal"
    return {
        "V": LSTMVariant(hidden, peepholes=p),
        "NIG": LSTMVariant(hidden, peepholes=p, gates="fo"),
        "NFG": LSTMVariant(hidden, peepholes=p, gates="io"),
        "NOG": LSTMVariant(hidden, peepholes=p, gates="if"),
        "NIAF": LSTMVariant(hidden, peepholes=p, activation="identity"),
        "NOAF": LSTMVariant(hidden, peepholes=p, output_activation="identity"),
        "CIFG": LSTMVariant(hidden, peepholes=p, coupled=True),
        "NP": LSTMVariant(hidden),
        "FGR": LSTMVariant(hidden, peepholes=p, gate_recurrence=True),
    }


def jozefowicz(hidden: int) -> dict[str, LSTMVariant]:
    """The LSTM, without one of its gates, or with a large forget bias.

    The paper prints tanh for the output gate, most likely an error: here it is σ.

    Args:
      hidden: width of every cell.

    Returns:
      Cells by name: LSTM, LSTM-f, LSTM-i, LSTM-o (without that gate), LSTM-b (forget bias 1; 0 in the
      others).

    Reference: Jozefowicz, Zaremba, Sutskever, An empirical exploration of recurrent network architectures,
    2015.

    >>> jozefowicz(8)["LSTM-f"].gates
    'io'
    """
    return {
        "LSTM": LSTMVariant(hidden, forget_bias=0.0),
        "LSTM-f": LSTMVariant(hidden, gates="io"),
        "LSTM-i": LSTMVariant(hidden, gates="fo", forget_bias=0.0),
        "LSTM-o": LSTMVariant(hidden, gates="if", forget_bias=0.0),
        "LSTM-b": LSTMVariant(hidden, forget_bias=1.0),
    }
