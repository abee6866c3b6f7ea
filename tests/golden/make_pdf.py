#!/usr/bin/env python3
"""Small PDFs for tests/test_pdf.c: tests/golden/make_pdf.py, in this repository. encrypted.pdf needs pypdf (made with
pypdf 6 and cryptography): it is random by each run."""
import os

folder = os.path.join(os.path.dirname(__file__), "pdf")


def pdf(objects):
    out, offsets = b"%PDF-1.4\n", []
    for i, o in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % i + o + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % o for o in offsets)
    return out + (b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table +
                  b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, len(out)))


def stream(text):
    return b"<< /Length %d >>\nstream\n" % len(text) + text + b"\nendstream"


def write(name, data):
    with open(f"{folder}/{name}.pdf", "wb") as f:
        f.write(data)


catalogue = b"<< /Type /Catalog /Pages 2 0 R >>"
# pages of an inch by half an inch: red; the left half green; the lower half blue
pages = [catalogue, b"<< /Type /Pages /Kids [3 0 R 4 0 R 5 0 R] /Count 3 /MediaBox [0 0 72 36] >>"]
pages += [b"<< /Type /Page /Parent 2 0 R /Contents %d 0 R >>" % n for n in (6, 7, 8)]
pages += [stream(s) for s in (b"1 0 0 rg 0 0 72 36 re f", b"0 1 0 rg 0 0 36 36 re f", b"0 0 1 rg 0 0 72 18 re f")]
os.makedirs(folder, exist_ok=True)
write("pages", pdf(pages))
write("empty", pdf([catalogue, b"<< /Type /Pages /Kids [] /Count 0 >>"]))
# 200,000 inches wide and high
write("huge", pdf([o.replace(b"0 0 72 36]", b"0 0 14400000 14400000]") for o in pages]))
import pypdf  # noqa: E402

locked = pypdf.PdfWriter(clone_from=f"{folder}/pages.pdf")
locked.encrypt("secret", algorithm="RC4-128")
locked.write(f"{folder}/encrypted.pdf")
