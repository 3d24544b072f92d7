//! Elements of sets and maps, and the data values and verdicts that they and rules hold.

use crate::{
    Error, Result,
    attribute::{Attribute, Reader, Writer},
};

/// `NFTA_DATA_VALUE` and `NFTA_DATA_VERDICT` of `enum nft_data_attributes`.
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
/// `NFT_SET_ELEM_INTERVAL_END` of `enum nft_set_elem_flags`.
const INTERVAL_END: u32 = 1;

/// Verdict on a packet (`NF_…`, `NFT_…`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Discard the packet.
    Drop,
    /// Let it pass this hook.
    Accept,
    /// Go on with the next rule of a chain, come back at its end.
    Jump(String),
    /// Go on in a chain, without coming back.
    Goto(String),
    /// Back to the calling chain.
    Return,
    /// Anything else, by its code.
    Other(i32),
}

/// Data of a map element or an immediate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Data {
    /// Bytes as registers have them.
    Value(Vec<u8>),
    /// A verdict, for verdict maps and immediates.
    Verdict(Verdict),
}

/// One element of a set or map.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Element {
    /// The key, each field of several padded to four bytes.
    pub key: Vec<u8>,
    /// Last key of a range, in sets of concatenated ranges.
    pub key_end: Option<Vec<u8>>,
    /// The key's value in a map.
    pub data: Option<Data>,
    /// In sets of plain ranges: this key is the first behind a range.
    pub interval_end: bool,
}

impl Verdict {
    fn code(&self) -> (i32, Option<&str>) {
        match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
            Self::Other(code) => (*code, None),
        }
    }

    fn decode(attributes: Reader<'_>) -> Result<Self> {
        let (mut code, mut chain) = (None, None);
        for attribute in attributes {
            let attribute = attribute?;
            match attribute.kind {
                1 => code = Some(attribute.u32()?.cast_signed()),
                2 => chain = Some(attribute.string()?),
                _ => {}
            }
        }
        let code = code.ok_or_else(|| Error::Malformed("a verdict without a code".into()))?;
        // Only jump and goto have a chain; one that stands beside another verdict means nothing.
        Ok(match (code, chain) {
            (0, _) => Self::Drop,
            (1, _) => Self::Accept,
            (-3, Some(chain)) => Self::Jump(chain),
            (-4, Some(chain)) => Self::Goto(chain),
            (-5, _) => Self::Return,
            (code, _) => Self::Other(code),
        })
    }
}

impl Data {
    /// Writes the data inside an attribute of type `kind`.
    pub(crate) fn encode(&self, writer: &mut Writer, kind: u16) {
        writer.nested(kind, |data| match self {
            Self::Value(bytes) => data.bytes(DATA_VALUE, bytes),
            Self::Verdict(verdict) => data.nested(DATA_VERDICT, |inner| {
                let (code, chain) = verdict.code();
                inner.u32(1, code.cast_unsigned());
                if let Some(chain) = chain {
                    inner.string(2, chain);
                }
            }),
        });
    }

    /// Reads the data inside an attribute.
    pub(crate) fn decode(attribute: &Attribute<'_>) -> Result<Self> {
        let inner =
            attribute.nested().next().ok_or_else(|| Error::Malformed("data without a value".into()))??;
        match inner.kind {
            DATA_VALUE => Ok(Self::Value(inner.value.to_vec())),
            DATA_VERDICT => Verdict::decode(inner.nested()).map(Self::Verdict),
            kind => Err(Error::Malformed(format!("data of kind {kind}"))),
        }
    }

    fn decode_value(attribute: &Attribute<'_>) -> Result<Vec<u8>> {
        match Self::decode(attribute)? {
            Self::Value(bytes) => Ok(bytes),
            Self::Verdict(_) => Err(Error::Malformed("a verdict as an element's key".into())),
        }
    }
}

impl Element {
    /// Bytes of the element's attribute in a message, at most.
    pub(crate) fn encoded_size(&self) -> usize {
        let data = match &self.data {
            None => 0,
            Some(Data::Value(bytes)) => 12 + bytes.len(),
            Some(Data::Verdict(verdict)) => 28 + verdict.code().1.map_or(0, str::len),
        };
        28 + self.key.len() + self.key_end.as_ref().map_or(0, |end| 12 + end.len()) + data
    }

    /// Writes the element into a list of elements.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        writer.nested(1, |element| {
            element.nested(1, |key| key.bytes(DATA_VALUE, &self.key));
            if let Some(data) = &self.data {
                data.encode(element, 2);
            }
            if self.interval_end {
                element.u32(3, INTERVAL_END);
            }
            if let Some(end) = &self.key_end {
                element.nested(10, |key| key.bytes(DATA_VALUE, end));
            }
        });
    }

    /// Reads one element of a list.
    pub(crate) fn decode(attribute: &Attribute<'_>) -> Result<Self> {
        let mut element = Self::default();
        for attribute in attribute.nested() {
            let attribute = attribute?;
            match attribute.kind {
                1 => element.key = Data::decode_value(&attribute)?,
                2 => element.data = Some(Data::decode(&attribute)?),
                3 => element.interval_end = attribute.u32()? & INTERVAL_END != 0,
                10 => element.key_end = Some(Data::decode_value(&attribute)?),
                _ => {}
            }
        }
        Ok(element)
    }
}
