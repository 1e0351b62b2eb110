//! Whom a certificate says it is for: its common name, by which operators know their clients.
//!
//! It reads no more than it needs and judges nothing. Whether the certificate is to be believed was decided in the handshake.

use yasna::tags::{TAG_IA5STRING, TAG_PRINTABLESTRING, TAG_UTF8STRING};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReaderSeq, Tag};

/// 2.5.4.3, the attribute that holds a common name.
const COMMON_NAME: [u64; 4] = [2, 5, 4, 3];

/// The subject's common name in a certificate in DER form; the last one, if it has several. None if it has none, or not in
/// one of the usual forms of text.
pub(super) fn common_name(certificate: &[u8]) -> Option<String> {
    let subject = yasna::parse_der(certificate, |certificate| {
        certificate.read_sequence(|parts| {
            let subject = parts.next().read_sequence(subject)?;
            skip_rest(parts)?;
            Ok(subject)
        })
    });
    let names = yasna::parse_der(&subject.ok()?, |subject| {
        let mut names = Vec::new();
        subject.read_sequence_of(|relative| {
            relative.read_set_of(|attribute| {
                attribute.read_sequence(|pair| {
                    names.extend(name_in(pair)?);
                    Ok(())
                })
            })
        })?;
        Ok(names)
    });
    names.ok()?.pop()
}

/// The subject among the fields of what is signed, as it stands there.
fn subject(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Vec<u8>> {
    // The version.
    fields.read_optional(|field| field.read_tagged(Tag::context(0), |version| version.read_der()))?;
    // The serial number, the signature's algorithm, the issuer, the time for which it is valid.
    for _ in 0..4 {
        fields.next().read_der()?;
    }
    let subject = fields.next().read_der()?;
    skip_rest(fields)?;
    Ok(subject)
}

fn skip_rest(fields: &mut BERReaderSeq<'_, '_>) -> ASN1Result<()> {
    while fields.read_optional(|field| field.read_der())?.is_some() {}
    Ok(())
}

/// The text of an attribute, if it is a common name.
fn name_in(pair: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Option<String>> {
    let kind = pair.next().read_oid()?;
    let value = pair.next().read_tagged_der()?;
    if *kind.components() != COMMON_NAME {
        return Ok(None);
    }
    let is_text = [TAG_UTF8STRING, TAG_PRINTABLESTRING, TAG_IA5STRING].contains(&value.tag());
    let text = std::str::from_utf8(value.value()).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))?;
    Ok(is_text.then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, DnValue, KeyPair};

    use super::*;

    fn certificate(names: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    fn text(text: &str) -> DnValue {
        DnValue::Utf8String(text.to_owned())
    }

    #[test]
    fn a_certificate_tells_the_common_name_of_its_subject() {
        let printable = DnValue::PrintableString("ops team".try_into().expect("printable"));
        for (names, told) in [
            (vec![(DnType::CommonName, text("billing-7"))], Some("billing-7")),
            (vec![(DnType::OrganizationName, text("ACME")), (DnType::CommonName, text("häuschen"))], Some("häuschen")),
            (vec![(DnType::CommonName, printable)], Some("ops team")),
            (vec![(DnType::OrganizationName, text("ACME"))], None),
            (vec![], None),
        ] {
            assert_eq!(common_name(&certificate(&names)).as_deref(), told, "{names:?}");
        }
    }

    #[test]
    fn no_part_of_a_certificate_panics() {
        let whole = certificate(&[(DnType::CommonName, text("name"))]);
        for length in 0..whole.len() {
            assert_eq!(common_name(&whole[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn no_damage_to_a_certificate_panics(damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut damaged = certificate(&[(DnType::CommonName, text("name"))]);
            for (at, byte) in damage {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            drop(common_name(&damaged));
        }
    }
}
