//! Trust in a server's certificate when `ca_certificate_file` says whom to trust.
//!
//! Invariant: a certificate is accepted if one of the file's authorities signed it, or if it *is* one of the file's
//! certificates; its names must fit either way. The second is what `openssl req -x509` makes: a server certificate that
//! calls itself an authority, which strict verification refuses to see as a server's.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use pgkeep_base::{Error, Result, ResultExt};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// TLS settings that trust what is in this PEM file, and nothing else.
pub(super) fn trusting(file: &Path) -> Result<ClientConfig> {
    read(file)
        .and_then(|certificates| settings(&certificates))
        .or_hint(|| "Correct `ca_certificate_file`, then run `pgkeep doctor`.")
        .during(|| format!("read `ca_certificate_file` {}", file.display()))
}

fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = std::fs::read(file).map_err(|error| Error::invalid("it can't be read").source(error))?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(none) if none.is_empty() => Err(Error::invalid("it holds no certificate in PEM form")),
        Ok(some) => Ok(some),
        Err(error) => Err(Error::invalid("it is not a PEM file").source(error)),
    }
}

fn settings(certificates: &[CertificateDer<'static>]) -> Result<ClientConfig> {
    let unusable = |error: rustls::Error| Error::invalid("its certificates can't be used").source(error);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(unusable)?;
    }
    let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|error| Error::invalid("its certificates can't be used").source(error))?;
    let verifier = Verifier {
        authorities,
        itself: certificates.iter().map(|certificate| certificate.to_vec()).collect(),
    };
    Ok(with_provider(provider)
        .map_err(unusable)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

fn with_provider(
    provider: Arc<CryptoProvider>,
) -> std::result::Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

#[derive(Debug)]
struct Verifier {
    authorities: Arc<WebPkiServerVerifier>,
    itself: HashSet<Vec<u8>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let verdict = self
            .authorities
            .verify_server_cert(server, intermediates, name, ocsp, now);
        match verdict {
            // "An authority can't be a server": unless the file names exactly this one.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.itself.contains(server.as_ref()) =>
            {
                rustls::client::verify_server_name(&ParsedCertificate::try_from(server)?, name)?;
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
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by `openssl req -x509 -subj /CN=store.example -addext subjectAltName=DNS:store.example -days 36500`.
    const ONE: &str = include_str!("tls/self-signed-one.pem");
    const TWO: &str = include_str!("tls/self-signed-two.pem");

    fn verdict(trusted: &str, shown: &str, name: &str) -> std::result::Result<(), rustls::Error> {
        let certificates = |pem: &str| {
            let found: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
                .map(|der| der.unwrap())
                .collect();
            found
        };
        let itself = certificates(trusted).iter().map(|der| der.to_vec()).collect();
        let mut roots = RootCertStore::empty();
        roots.add(certificates(trusted)[0].clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authorities = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .unwrap();
        let verifier = Verifier { authorities, itself };
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_800_000_000));
        verifier
            .verify_server_cert(&certificates(shown)[0], &[], &name, &[], now)
            .map(drop)
    }

    #[test]
    fn a_self_signed_certificate_is_trusted_as_itself_and_under_its_own_name_only() {
        assert_eq!(verdict(ONE, ONE, "store.example"), Ok(()));
        assert!(verdict(ONE, ONE, "other.example").is_err());
        assert!(verdict(ONE, TWO, "store.example").is_err());
    }
}
