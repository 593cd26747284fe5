//! libpq's `sslmode` on rustls.
//!
//! Invariant: `verify-ca` and `verify-full` never connect without a verified chain, and `verify-full` never without a
//! matching name. Weaker modes encrypt against listeners only, as libpq's do. A Unix socket never speaks TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pgkeep_base::{Error, Result, ResultExt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

/// `sslmode`; `allow` counts as `prefer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What the connection string asks of TLS.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub mode: Mode,
    /// `sslrootcert`, else `~/.postgresql/root.crt` where that exists; the word `system` means the machine's roots.
    pub root: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl Request {
    /// The mode in force: a root makes `require` mean `verify-ca`, as in libpq; `system` always verifies fully.
    pub fn effective(&self) -> Mode {
        match (self.mode, self.root.as_deref()) {
            (_, Some(root)) if root == Path::new("system") => Mode::VerifyFull,
            (Mode::Require, Some(_)) => Mode::VerifyCa,
            (mode, _) => mode,
        }
    }

    /// A connector for the mode in force.
    ///
    /// # Errors
    /// `Invalid` when a certificate file is needed and missing or unreadable.
    pub fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = match self.effective() {
            Mode::VerifyCa => Some(self.trust(&provider, false)?),
            Mode::VerifyFull => Some(self.trust(&provider, true)?),
            Mode::Disable | Mode::Prefer | Mode::Require => None,
        };
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal("TLS can't be set up").source(error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { provider, trust }));
        let mut config = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| {
                    Error::invalid("the client certificate and its key don't fit together").source(error)
                })?,
            _ => builder.with_no_client_auth(),
        };
        // What libpq announces; `sslnegotiation=direct` needs it.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn trust(&self, provider: &Arc<CryptoProvider>, names: bool) -> Result<Trust> {
        let mut roots = RootCertStore::empty();
        let pinned = match self.root.as_deref() {
            Some(root) if root == Path::new("system") => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                Vec::new()
            }
            Some(root) => {
                let given = certificates(root)?;
                roots.add_parsable_certificates(given.iter().cloned());
                given
            }
            None => {
                return Err(Error::invalid("no root certificate is known to verify the server with")
                    .detail("neither `sslrootcert` nor ~/.postgresql/root.crt names one")
                    .hint("Add `sslrootcert=FILE` or `sslrootcert=system` to `connection`, then run `pgkeep config check`."));
            }
        };
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| Error::invalid("the root certificates can't be used").source(error))?;
        Ok(Trust { chain, pinned, names })
    }
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || -> Result<Vec<_>, rustls::pki_types::pem::Error> { CertificateDer::pem_file_iter(file)?.collect() };
    match read() {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Error::invalid("it holds no certificate")),
        Err(error) => Err(Error::invalid("it can't be read as PEM").source(error)),
    }
    .during(|| format!("read certificate {}", file.display()))
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file)
        .map_err(|error| Error::invalid("it can't be read as a PEM key").source(error))
        .during(|| format!("read private key {}", file.display()))
}

/// Verifies that the server holds the key of the certificate that it shows and, with trust, that it is the right one.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// Without, every certificate is accepted: libpq's `prefer` and `require`.
    trust: Option<Trust>,
}

/// The chain that a certificate must have; also the name if `names`.
#[derive(Debug)]
struct Trust {
    chain: Arc<WebPkiServerVerifier>,
    /// The given roots as they are: a server may present one of them as its own (self-signed) certificate.
    pinned: Vec<CertificateDer<'static>>,
    names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(Trust { chain, pinned, names }) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        if pinned.iter().any(|pinned| pinned == end_entity) {
            if *names {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        use CertificateError::{NotValidForName, NotValidForNameContext};
        match chain.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last: whoever complains about it has accepted the chain.
            Err(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) if !names => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, supported)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
