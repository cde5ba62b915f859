//! Verifies the signatures of JWTs with ring, which TLS uses too, for `jsonwebtoken`. Its own
//! backends would add twenty crates, RSA among them.

use jsonwebtoken::crypto::{CryptoProvider, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind, Result};
use jsonwebtoken::signature::{self, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey, VerificationAlgorithm};

/// Verifies the three algorithms that user tokens can have. Tributary signs none.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(Error::from(ErrorKind::InvalidAlgorithm)),
    verifier_factory,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes `jsonwebtoken` use ring in this process. If the application has chosen another backend
/// before, that one verifies.
pub(super) fn install() {
    let _ = PROVIDER.install_default();
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    let public = |family, with: &'static dyn VerificationAlgorithm| {
        let key = UnparsedPublicKey::new(with, bytes.to_vec());
        (family, Key::Public(key))
    };
    let (family, verifying) = match algorithm {
        Algorithm::EdDSA => public(AlgorithmFamily::Ed, &ED25519),
        Algorithm::ES256 => public(AlgorithmFamily::Ec, &ECDSA_P256_SHA256_FIXED),
        Algorithm::HS256 => {
            (AlgorithmFamily::Hmac, Key::Shared(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
        }
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    if key.family() != family {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, key: verifying }))
}

struct RingVerifier {
    algorithm: Algorithm,
    key: Key,
}

enum Key {
    Public(UnparsedPublicKey<Vec<u8>>),
    Shared(hmac::Key),
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let verified = match &self.key {
            Key::Public(key) => key.verify(message, signature),
            Key::Shared(key) => hmac::verify(key, message, signature),
        };
        verified.map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
