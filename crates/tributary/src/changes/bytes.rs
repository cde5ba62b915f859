//! Reads numbers and slices from bytes that came over the network. A read beyond the end returns
//! `None`; no read panics. Pure.

/// The bytes that are left to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    /// All bytes that are left.
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// The next little-endian number of `len` bytes, at most eight.
    pub(crate) fn number(&mut self, len: usize) -> Option<u64> {
        let mut bytes = [0; 8];
        bytes.get_mut(..len)?.copy_from_slice(self.take(len)?);
        Some(u64::from_le_bytes(bytes))
    }

    /// The next big-endian number of `len` bytes, at most eight.
    pub(crate) fn big_endian(&mut self, len: usize) -> Option<u64> {
        let taken = self.take(len).filter(|_| len <= 8)?;
        Some(taken.iter().fold(0, |number, byte| (number << 8) | u64::from(*byte)))
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }

    /// The next length-encoded integer of the MySQL protocol.
    pub(crate) fn length(&mut self) -> Option<usize> {
        let number = match self.byte()? {
            small @ 0..=250 => u64::from(small),
            252 => self.number(2)?,
            253 => self.number(3)?,
            254 => self.u64()?,
            251 | 255 => return None,
        };
        usize::try_from(number).ok()
    }

    /// A string of bytes that follows its own length. The length takes `len` bytes.
    pub(crate) fn prefixed(&mut self, len: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number(len)?).ok()?;
        self.take(length)
    }

    /// A number of one to nine bytes. The number of trailing one bits of the first byte is the
    /// number of bytes that follow.
    pub(crate) fn varying(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let more = first.trailing_ones();
        if more == 8 {
            return self.u64();
        }
        let more = more as usize;
        let high = self.number(more)?;
        // In the first byte, the lowest bits of the number follow the one bits and a zero bit.
        let low = u64::from(first) >> (more + 1);
        Some(low | high.checked_shl(7 - u32::try_from(more).ok()?)?)
    }
}

/// Whether bit `index` is set. Bit 0 is the lowest bit of the first byte.
pub(crate) fn bit(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_beyond_the_end_return_none() {
        let mut bytes = Bytes(&[1, 2, 3, 252, 4, 5, 7]);
        assert_eq!(bytes.number(2), Some(0x0201));
        assert_eq!(bytes.big_endian(1), Some(3));
        assert_eq!(bytes.length(), Some(0x0504));
        assert_eq!(bytes.u16(), None);
        assert_eq!(bytes.prefixed(1), None, "the length is seven and no byte follows");
        assert_eq!(Bytes(&[0; 20]).number(9), None);
    }

    #[test]
    fn varying_numbers_are_decoded() {
        let read = |bytes: &[u8]| Bytes(bytes).varying();
        assert_eq!(read(&[0]), Some(0));
        assert_eq!(read(&[126 << 1]), Some(126));
        // 300 in two bytes: (300 << 2) | 0b01.
        assert_eq!(read(&(300u16 << 2 | 1).to_le_bytes()), Some(300));
        let nine = [&[255][..], &u64::MAX.to_le_bytes()].concat();
        assert_eq!(read(&nine), Some(u64::MAX));
        let eight = ((1u64 << 50) << 8 | 0x7f).to_le_bytes();
        assert_eq!(read(&eight), Some(1 << 50));
        assert_eq!(read(&[1]), None);
    }
}
