import csv
import gzip
import json

import pytest
from data_helpers import small_dataset

from timm_landmark.data.card import write_attribution, write_card
from timm_landmark.utils.errors import UserError


def attribution_csv(ids) -> bytes:
    lines = ["id,url,author,license,title"]
    for index, name in enumerate(ids):
        licence = "https://creativecommons.org/licenses/by-sa/3.0/" if index % 3 else "https://creativecommons.org/x"
        lines.append(f'{name},http://u/{index},"A, ""B"" é",{licence},"File:T\n{index}.jpg"')
    return "\n".join(lines).encode()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")])
def test_attribution_holds_only_the_rows_used(tmp_path, pack):
    source = tmp_path / ("a.csv.gz" if pack is gzip.compress else "a.csv")
    source.write_bytes(pack(attribution_csv([f"{index:016d}" for index in range(5000)])))
    assert write_attribution(tmp_path, source, {f"{index:016d}" for index in (7, 4999, 12)} | {"nowhere"}) == 1
    with open(tmp_path / "attribution.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == ["0000000000000007", "0000000000000012", "0000000000004999"]
    assert rows[0]["author"] == 'A, "B" é' and rows[0]["url"] == "http://u/7"


def test_attribution_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("id,commons_file\n1,x\n")
    with pytest.raises(UserError, match="its header is id,commons_file"):
        write_attribution(tmp_path, tmp_path / "a.csv", {"1"})
    with pytest.raises(UserError, match="cannot read"):
        write_attribution(tmp_path, tmp_path / "none.csv", {"1"})


@pytest.mark.parametrize(
    ("release", "said", "not_said"),
    [
        ("GLDv1", "Do not redistribute", "CVPR 2020"),
        ("GLDv2", "CVPR 2020", "Ozaki"),
        ("GLDv2 clean", "Ozaki", "ICCV"),
        ("Kaggle 2020/2021 (GLDv2 clean)", "Ozaki", "ICCV"),
        ("GLDv1 or GLDv2", "Do not redistribute", "Ozaki"),
        ("own photos", "licences of the photos are unknown", "## Cite"),
    ],
)
def test_card_says_what_the_set_is(tmp_path, release, said, not_said):
    data = tmp_path / "data"
    manifest, _ = small_dataset(data)
    info = json.loads((data / "dataset.json").read_text()) | {"release": release}
    (data / "dataset.json").write_text(json.dumps(info))
    source = tmp_path / "train_attribution.csv"
    source.write_bytes(attribution_csv([row.image_id for row in manifest]))
    if release == "GLDv2":
        write_attribution(data, source, {row.image_id for row in manifest})
    write_card(data, "timm-landmark prepare --seed 0", {"groups": "3 would have crossed"})
    text = (data / "README.md").read_text()
    assert said in text and not_said not in text
    assert "# 3 landmarks, 33 images" in text and "| train | 18 | 6 | 6 | 6 |" in text
    assert info["digest"] in text and "timm-landmark prepare --seed 0" in text
    assert "| truncated | 1 |" in text and "* groups: 3 would have crossed" in text
    assert ("https://creativecommons.org/licenses/by-sa/3.0/ | 22" in text) == (release == "GLDv2")
    assert str(tmp_path) not in text


def test_licences_of_the_attribution_are_words_in_the_card(tmp_path):
    """The column is untrusted: no HTML, no link except to Creative Commons, no line break, no terminal escape."""
    data = tmp_path / "data"
    manifest, _ = small_dataset(data)
    licences = [
        "<script>alert(1)</script><img src=x onerror=alert(1)>",
        "a | b\n# Title\n\n[free](javascript:x)",
        "\x1b[31mred\u202e",
        "https://example.com/creativecommons.org/",
        "https://creativecommons.org/licenses/by-sa/3.0/",
        "",
    ]
    with open(tmp_path / "train_attribution.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "url", "author", "license", "title"])
        writer.writerows(
            [[row.image_id, "", "", licence, ""] for row, licence in zip(manifest, licences * 5, strict=False)]
        )
    write_attribution(data, tmp_path / "train_attribution.csv", [row.image_id for row in manifest])
    write_card(data, "timm-landmark prepare", {})
    text = (data / "README.md").read_text(encoding="utf-8")
    table = text.partition("as stated in `attribution.csv` | images |\n|---|---|\n")[2].partition("\n\n")[0]
    assert table.splitlines() == [
        r"| &lt;script&gt;alert\(1\)&lt;\/script&gt;&lt;img src=x onerror=alert\(1\)&gt; | 5 |",
        r"| a \| b \# Title \[free\]\(javascript\:x\) | 5 |",
        r"| \[31mred | 5 |",
        r"| https\:\/\/example.com\/creativecommons.org\/ | 5 |",
        "| https://creativecommons.org/licenses/by-sa/3.0/ | 5 |",
        "| not stated | 5 |",
    ]
    assert "<script" not in text and "\x1b" not in text
