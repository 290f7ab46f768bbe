from pathlib import Path

from jrnn.cli import cell_table

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_table_of_cells_is_the_one_that_the_command_prints():
    table = README.split("<!-- cells -->\n")[1].split("\n<!-- /cells -->")[0]
    assert table == cell_table(markdown=True).strip()
