"""The toy example of the lecture."""


def toy_sentences() -> tuple[str, str]:
    """Two sentences with six words in all, which differ from the second word on.

    In the order in which they first come, the words are my, name, is, ram, city, delhi: the sentences
    are the one-hot rows 0 1 2 3 and 0 4 2 5.

    Returns:
      The sentences.

    >>> from jrnn.data.synthetic import toy_sentences
    >>> toy_sentences()
    ('My name is Ram.', 'My city is Delhi.')
    """
    return "My name is Ram.", "My city is Delhi."
