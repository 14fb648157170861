// What every page does: forms that send JSON to the API, and parts that follow the stream of events.
import { listenToForms } from "./forms.js";
import { followEvents } from "./live.js";

listenToForms(document);
followEvents(document);
