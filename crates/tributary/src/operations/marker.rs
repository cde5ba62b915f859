//! Read markers.

use crate::Tributary;
use crate::model::{PostAddress, UserId};
use crate::posts::markers::{FoundMarker, MarkError, ReadMarker};
use crate::publish::Operation;
use crate::shard::NotStored;

impl Tributary {
    /// The place down to which `user` has read the home timeline. One query.
    ///
    /// # Errors
    /// [`NotStored`] if the shards have no table of markers.
    pub async fn read_marker(&self, user: UserId) -> Result<FoundMarker, NotStored> {
        self.0.fleet.require_markers()?;
        Ok(FoundMarker::of(self.0.fleet.read_marker(user).await))
    }

    /// Moves the read marker of `user` to a post, unless it is at a newer one already, and returns
    /// the marker. `None` if there is no such post. A query and a transaction.
    ///
    /// ```no_run
    /// # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
    /// use tributary::posts::PostAddress;
    /// use tributary::{PageRequest, PostId, UserId};
    ///
    /// let (reader, page) = (UserId::from(42), PageRequest::default());
    /// let read = PostAddress { author: UserId::from(7), post: PostId::from(71) };
    /// tributary.mark_read(reader, read).await?;
    ///
    /// // On another device.
    /// let marker = tributary.read_marker(reader).await?.marker;
    /// if let Some(post) = marker.and_then(|marker| marker.post) {
    ///     let page = tributary.home_timeline_around(reader, post, &page).await?;
    ///     println!("{} posts", page.map_or(0, |page| page.posts.len()));
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// See [`MarkError`]. After any error except [`crate::WriteError::InDoubt`], the marker is
    /// where it was. The call can be repeated.
    pub async fn mark_read(
        &self,
        user: UserId,
        post: PostAddress,
    ) -> Result<Option<ReadMarker>, MarkError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        fleet.require_markers()?;
        fleet.require_address_index()?;
        publisher.permit()?;
        let found = fleet.post(post.author, post.post, fleet.read_deadline().half()).await;
        let Some(post) = found.map_err(MarkError::Unavailable)? else { return Ok(None) };
        if fleet.horizon().is_beyond(post.key) {
            return Err(MarkError::FuturePost);
        }
        let done = publisher.mark_read(fleet, user, post.key).await;
        publisher.counts().note(Operation::MarkRead, &done, false);
        Ok(Some(done?))
    }
}
