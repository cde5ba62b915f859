//! Edits of posts.

use crate::Tributary;
use crate::graph::GraphError;
use crate::model::{PostId, UserId};
use crate::posts::{Edited, PostAddress};
use crate::publish::Operation;

impl Tributary {
    /// Replaces the text of a post, which keeps its place in all timelines. `None` if there is no
    /// such post. A post that has the text already stays as it is. One transaction.
    ///
    /// ```no_run
    /// # async fn run(tributary: tributary::Tributary) -> Result<(), Box<dyn std::error::Error>> {
    /// use tributary::{PageRequest, PostId, UserId};
    ///
    /// let (author, post) = (UserId::from(7), PostId::from(71));
    /// if let Some(edited) = tributary.edit(author, post, "hello again").await? {
    ///     assert!(edited.post.edited_at.is_some());
    ///     let newest = PageRequest::default().at_least(edited.freshness);
    ///     let page = tributary.author_timeline(author, &newest).await?;
    ///     println!("{} posts, one of them with the new text", page.posts.len());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Tributary::publish`]; a repost gets a text too. [`GraphError::NotStored`] if the posts
    /// table has no column for the time of an edit, or no index for reading a post by its address.
    pub async fn edit(
        &self,
        author: UserId,
        post: PostId,
        content: &str,
    ) -> Result<Option<Edited>, GraphError> {
        let (publisher, fleet) = (&self.0.publisher, &self.0.fleet);
        fleet.require_edits()?;
        let done = publisher.edit(fleet, PostAddress { author, post }, content).await;
        publisher.counts().note(Operation::EditPost, &done, false);
        Ok(done?)
    }
}
