# SPDX-License-Identifier: LGPL-2.1-or-later
"""Authorities and certificates for TLS, by openssl."""

import os
import shutil


class Authority:
    """Makes certificates, in directories as tls_dir names them."""

    NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

    def __init__(self, t, name):
        self.t = t
        self.home = t.path(name)
        os.mkdir(self.home)
        self._openssl("req", "-x509", *self.NEW, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", f"/CN={name}", "-days", "2")

    def _openssl(self, *words):
        self.t.run("openssl", *words, cwd=self.home)

    def add(self, path, who, purpose=None, days=2, address="127.0.0.1"):
        """A certificate in the directory PATH for WHO, "server" or "client", with its key, which all may read."""
        self._openssl("req", *self.NEW, "-keyout", f"{path}/{who}-key.pem", "-out", "request.pem", "-subj", f"/CN={who}")
        os.chmod(f"{path}/{who}-key.pem", 0o644)
        with open(f"{self.home}/extensions", "w", encoding="utf-8") as file:
            file.write(f"subjectAltName=IP:{address}\nextendedKeyUsage={purpose or who}Auth\n")
        # OpenSSL 3.4 and later have no negative number of days, but dates.
        dates = days < 0 and "-not_after" in self.t.run("openssl", "x509", "-help")
        period = ("-not_before", "20240101000000Z", "-not_after", "20240102000000Z") if dates else ("-days", str(days))
        self._openssl("x509", "-req", "-in", "request.pem", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                      *period, "-extfile", "extensions", "-out", f"{path}/{who}-cert.pem")

    def directory(self, name, *who, ca=None, **options):
        """A directory with certificates for each of WHO, which trusts the authority CA."""
        path = self.t.path(name)
        os.mkdir(path)
        shutil.copy(f"{(ca or self).home}/ca-cert.pem", path)
        for each in who:
            self.add(path, each, **options)
        return path
