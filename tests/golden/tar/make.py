"""Archives of every tar dialect, written by Python's tarfile: run here, writes *.tar.

Each holds the same members; member i has the content "content i\n" repeated i + 1 times."""
import io
import tarfile

LONG = "a-long-folder-name/" * 12 + "picture.jpg"  # 239 bytes: beyond ustar's name field
PREFIX = "folder/" * 14 + "some-longer-file-name.jpg"  # 123 bytes: fits ustar's prefix
NAMES = {
    "ustar": ["000000.jpg", "000000.txt", PREFIX],
    "gnu": ["000000.jpg", "000000.txt", PREFIX, LONG, "g" * 300 + ".txt"],
    "pax": ["000000.jpg", "000000.txt", PREFIX, LONG, "\u00e9t\u00e9/\u6a21.jpg"],
}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}

for kind, names in NAMES.items():
    with tarfile.open(kind + ".tar", "w", format=FORMATS[kind],
                      pax_headers={"comment": "global"} if kind == "pax" else None) as out:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        for i, name in enumerate(names):
            data = ("content %d\n" % i).encode() * (i + 1)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if kind == "pax" and i == 1:
                info.pax_headers = {"vendor.note": "x" * 600, "mtime": "1.5"}
            out.addfile(info, io.BytesIO(data))
            if i == 0:
                link = tarfile.TarInfo("link.jpg")
                link.type = tarfile.SYMTYPE
                link.linkname = "l" * 120 if kind != "ustar" else "000000.jpg"
                out.addfile(link)
