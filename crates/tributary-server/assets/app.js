// Starts the parts of the page. The page is complete without them.
import "./controls.js";
import "./composer.js";
import "./explain.js";
import "./feed.js";
import "./respond.js";
import "./shards.js";
import { startKeys } from "./keys.js";

startKeys();
