from __future__ import annotations

import os
from pathlib import Path

import pytest

from wsisr.errors import OptionError, UsageError
from wsisr.plan import Rect
from wsisr.scaleout.cohort import Row, read_rows


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of slides, which is also the current one."""
    for name in ("a.svs", "b.svs", "c.ome.tif", "sub/d.ndpi", "scan.tif", "mask.png"):
        path = tmp_path / "slides" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "slides"


def manifest(folder: Path, text: str | bytes, name: str = "cohort.csv") -> list[Row]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows([path], Path("out"))


def ids(rows: list[Row]) -> list[str]:
    return [row.id for row in rows]


# the command line


def test_a_file_is_named_by_its_stem(folder: Path) -> None:
    (row,) = read_rows(["slides/c.ome.tif"], Path("out"))
    assert row == Row("c", "slides/c.ome.tif", Path("out/c.ome.tif"), {}, None)
    (row,) = read_rows([folder / "a.svs"], Path("out"), ".ome.zarr")
    assert row.output == Path("out/a.ome.zarr")


def test_a_folder_is_searched_but_not_for_results(folder: Path) -> None:
    assert ids(read_rows(["slides"], Path("out"))) == ["a", "b", "c", "mask", "scan", "d"]
    (folder / "out").mkdir()
    (folder / "out" / "a.ome.tif").write_bytes(b"x")
    assert len(read_rows(["slides"], folder / "out")) == 6


def test_a_pattern_may_be_quoted(folder: Path) -> None:
    assert ids(read_rows(["slides/*.svs"], Path("out"))) == ["a", "b"]
    assert ids(read_rows(["slides/**/*.[sn]*"], Path("out"))) == ["a", "b", "d"]
    assert ids(read_rows(["slides/*.svs"], folder)) == ["a", "b"]
    (folder / "out").mkdir()
    (folder / "out" / "a.ome.tif").write_bytes(b"x")
    assert "out" not in "".join(r.slide for r in read_rows(["slides/**"], folder / "out"))


def test_a_pattern_takes_what_a_folder_would(folder: Path) -> None:
    (folder / "m.mrxs").write_bytes(b"x")
    for name in ("m/thumb.png", "z.ome.zarr/.zattrs", "z.ome.zarr/0.png", ".e.svs", "n.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert ids(read_rows(["slides/*"], Path("out"))) == ["a", "b", "c", "m", "mask", "scan", "z"]


def test_a_name_with_signs_of_patterns_is_taken_as_it_is(folder: Path) -> None:
    (folder / "e[1].svs").write_bytes(b"x")
    assert ids(read_rows(["slides/e[1].svs"], Path("out"))) == ["e[1]"]


def test_a_slide_that_is_named_twice_is_one(folder: Path) -> None:
    rows = read_rows(["slides/b.svs", folder / "b.svs", "slides/*.svs"], Path("out"))
    assert ids(rows) == ["b", "a"]


def test_urls_stay_as_they_are(folder: Path) -> None:
    url = "https://user:secret@host/deep/x.svs?sign=abc"
    rows = read_rows([url, "s3://bucket/y.ome.zarr/", "slides/a.svs"], Path("out"))
    assert [(row.id, row.slide) for row in rows[:2]] == [
        ("x", url),
        ("y", "s3://bucket/y.ome.zarr/"),
    ]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "there are no slides"),
        (["slides/none.svs"], "slides/none.svs does not exist"),
        (["slides/*.scn"], "matches no slides"),
        (["n1", "n2", "n3", "n4", "n5"], "^5 problems: n1 does .*; n2 does .*; n3 does .* 2 more$"),
        (["cohort.csv", "slides/a.svs"], "stands alone"),
        (["empty"], "empty holds no slides"),
        (["https://u:secret@host/x.svs?k=1", "https://host/x.svs?k=2"], "one id, x"),
    ],
)
def test_inputs_that_lead_nowhere_are_refused(folder: Path, inputs: list[str], said: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=said) as caught:
        read_rows(inputs, Path("out"))
    assert "secret" not in str(caught.value)
    assert "k=1" not in str(caught.value)


def test_slides_of_one_name_need_an_id(folder: Path) -> None:
    (folder / "sub/A.tif").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"a\.svs and slides/sub/A\.tif have one id, A"):
        read_rows(["slides"], Path("out"))


def test_results_do_not_replace_their_slides(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"the output slides/c\.ome\.tif is an input"):
        read_rows(["slides/c.ome.tif"], Path("slides"))
    with pytest.raises(UsageError, match="also the folder of the results"):
        read_rows(["slides"], Path("slides"))
    with pytest.raises(OptionError, match=r"suffix \.svs"):
        read_rows(["slides"], Path("out"), ".svs")


# the manifest


def test_every_column_is_read(folder: Path) -> None:
    (row,) = manifest(
        folder,
        "slide,id,output,mpp,magnification,level,region,tissue,scale,model,seed,hr\n"
        'a.svs,one,x/y.ome.zarr,0.5,20x,1,"10,20,300,400",mask.png,4,tiny,7,scan.tif\n',
    )
    assert row == Row(
        "one",
        str(folder / "a.svs"),
        Path("out/x/y.ome.zarr"),
        {
            "input_mpp": 0.5,
            "input_mag": 20.0,
            "level": 1,
            "region": Rect(10, 20, 300, 400),
            "tissue": str(folder / "mask.png"),
            "scale": 4.0,
            "model": "tiny",
            "seed": 7,
        },
        str(folder / "scan.tif"),
    )


def test_blank_cells_set_nothing(folder: Path) -> None:
    rows = manifest(folder, "wsi,mpp,tissue\na.svs,,\n\n , ,\n")
    assert rows == [Row("a", str(folder / "a.svs"), Path("out/a.ome.tif"))]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffslide,mpp\r\na.svs,0.5\r\nb.svs,\r\n",
        "slide;mpp\na.svs;0,5\nb.svs;\n",
        "slide\tmpp\na.svs\t0.5\nb.svs",
        "sep=;\nslide;mpp\n\na.svs;0.5\n;\nb.svs\n",
        'Slide , "MPP"\n"a.svs", "0.5"\n"b.svs", ""\n',
        'slide,mpp,,\n"a.svs",0.5,,\nb.svs,,,\n',
        "\nslide,mpp\ra.svs,0.5\rb.svs,\r",
    ],
)
def test_tables_of_many_programs_are_read(folder: Path, text: str) -> None:
    for encoded in (text.encode(), text.encode("utf-16")):
        rows = manifest(folder, encoded)
        assert ids(rows) == ["a", "b"]
        assert [dict(row.options) for row in rows] == [{"input_mpp": 0.5}, {}]


def test_a_slide_may_have_several_results(folder: Path) -> None:
    rows = manifest(folder, "slide,output,level\na.svs,a0.ome.tif,0\na.svs,a1.ome.tif,1\n")
    assert ids(rows) == ["a0", "a1"]


def test_absolute_paths_urls_and_names_of_models_stay(folder: Path) -> None:
    (folder / "net").mkdir()
    (folder / "w.safetensors").write_bytes(b"x")
    rows = manifest(
        folder,
        f"slide,model,output\n{folder / 'a.svs'},./net,{folder.parent / 'far.ome.tif'}\n"
        "s3://b/k.svs,w.safetensors,\nb.svs,bicubic,\n",
    )
    assert rows[0].output == folder.parent / "far.ome.tif"
    assert rows[1].slide == "s3://b/k.svs"
    assert [row.options["model"] for row in rows] == [
        str(folder / "net"),
        str(folder / "w.safetensors"),
        "bicubic",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("slide\n", "there are no slides"),
        ("mpp\n0.5\n", "unknown|column slide is missing"),
        ("slide,mmp\na.svs,1\n", "unknown column 'mmp'; .* are slide, wsi, id, output, mpp"),
        ("slide,wsi\na.svs,b.svs\n", "column slide is there twice"),
        ("slide\ngone.svs\n", r"line 2, column slide: 'gone\.svs' does not exist"),
        ("slide,hr\na.svs,gone.svs\n", r"line 2, column hr: 'gone\.svs' does not exist"),
        ("slide,tissue\na.svs,gone.png\n", "column tissue: .* does not exist"),
        ("slide,model\na.svs,./gone\n", "column model: .* does not exist"),
        ("slide,mpp\n\n\na.svs,-1\n", "line 4, column mpp: '-1' is not a number above 0"),
        ("slide,mpp\na.svs,nan\n", "column mpp: 'nan' is not a number above 0"),
        ("slide,mpp\na.svs,fine\n", "column mpp: 'fine' is not a number"),
        ("slide,scale\na.svs,1\n", "column scale: '1' is not above 1"),
        ("slide,level\na.svs,1.5\n", "column level: '1.5' is not a whole number"),
        ("slide,seed\na.svs,18446744073709551616\n", "column seed: .* is not a whole number"),
        ('slide,region\na.svs,"1,2,3"\n', "column region: '1,2,3' is not four whole numbers"),
        ('slide,region\na.svs,"1,2,0,3"\n', "column region: '1,2,0,3' has no pixels"),
        ("slide,mpp\na.svs,0,5\n", "line 2: 3 cells for 2 columns; quote a cell that holds ','"),
        ("slide,mpp\n,0.5\n", "line 2, column slide: is blank"),
        ("slide,\na.svs,what\n", "line 2, the cell 'what' stands in a column without a name"),
        ('slide\n"a.svs\nb.svs\n', "line 2: .*check the quotation marks"),
        ("slide,id\na.svs,x/y\n", "line 2: the id 'x/y' cannot name files: it holds '/'"),
        ("slide,id\na.svs,..\n", "line 2: the id '..' cannot name files"),
        ("slide,id\na.svs,Ä\nb.svs,a\u0308\n", "line 2 and line 3 have one id"),
        ("slide,id\na.svs," + "x" * 181, "more than 180 bytes"),
        ("slide,output\na.svs,x.svs\n", "line 2: the output out/x.svs does not end in"),
        ("slide,output\na.svs,s3://b/x.ome.zarr\n", "column output: .* is not a path"),
        ("slide,output,id\na.svs,x.ome.tif,1\nb.svs,s/../X.ome.tif,2\n", "line 3 have one output"),
        ("slide,output\na.svs,../slides/c.ome.tif\nc.ome.tif,d.ome.tif\n", "an input of line 3"),
        (b"slide\n\xe9.svs\n", "is not UTF-8 text"),
        (b"slide\n\0.svs\n", "zero bytes"),
        ("slide\nhttps://u:secret@h/x.tif?k=secret\nhttps://h/x.tif\n", "one id, x"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(folder: Path, text: str | bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        manifest(folder, text)
    message = str(caught.value)
    assert "secret" not in message
    assert "\n" not in message
    assert "cohort.csv" in message or "no slides" in message


def test_all_that_is_wrong_is_counted(folder: Path) -> None:
    lines = "".join(f"gone{number}.svs,{number - 3}\n" for number in range(1, 5))
    with pytest.raises(UsageError) as caught:
        manifest(folder, f"slide,mpp\na.svs,1\n{lines}a.svs,2\n")
    message = str(caught.value)
    assert f"{folder / 'cohort.csv'}: 8 problems: line 3, column slide: 'gone1.svs'" in message
    assert message.endswith("; and 5 more")


def test_a_manifest_that_cannot_be_read_says_so(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.csv does not exist"):
        read_rows(["none.csv"], Path("out"))
    (folder / "is.csv").mkdir()
    with pytest.raises(UsageError, match=r"is\.csv cannot be read"):
        read_rows([folder / "is.csv"], Path("out"))


def test_ten_thousand_rows_take_little(folder: Path) -> None:
    text = "slide,output\n" + "".join(f"a.svs,{number}.ome.tif\n" for number in range(10_000))
    before = os.times().user
    assert len(manifest(folder, text)) == 10_000
    assert os.times().user - before < 20
