// Package resume carries one byte stream in each direction over a succession of attachments (streams of tunnels), so that the loss of a
// tunnel costs a session nothing: bytes are kept by their sender until the receiving program has taken them, and sent again on the next
// attachment.
//
// Start from Open (hub) and ReadAttach with Accept or Refuse (edge). Both give a *Stream, used like a net.Conn with half-close. Machine
// is the protocol without I/O or clock; Stream runs one.
//
// # On the wire
//
// An attachment is one stream of a tunnel. The opener (the hub) sends the message Attach (package wire), the acceptor (the edge) answers
// Attached; on an attachment that opens a stream (counter 0) both go on with frames at once, without waiting for the other. On one that
// resumes (counter > 0) the opener sends frames only after Attached, for only then does it know where to go on. Attach carries in Sent
// the offset after the last byte its sender ever sent and in Received the offset of the next byte it expects; so does Attached.
// Each side goes on sending at the other's Received. A counter not above all earlier ones of the stream is refused. After Attached with
// a code other than 0 nothing follows.
//
// A frame is
//
//	u8  type
//	u24 length of the body
//	... body
//
// with integers big-endian. At most MaxBody bytes of body; a longer one is an error. Unknown types are errors too.
//
//	1 DATA      bytes (1..MaxBody): the next bytes of the sender's direction
//	2 DATA_ASK  like DATA; and the receiver shall send ACK as soon as its program has taken all up to the end of this frame
//	3 ACK       u64 consumed, u32 window: the program has taken the bytes below consumed; the peer may send those below consumed+window
//	4 FIN       empty: the sender's direction ends here. FIN takes one offset, so that ACK can cover it
//	5 RESET     u16 code, u16 length of text, text (UTF-8, ≤ 512 bytes): the stream is over in both directions
//
// Offsets count payload bytes from 0 in each direction, never those of frames. At the start the window is InitialWindow; a receiver with
// more room says so by an ACK. ACK never goes back: neither consumed nor consumed+window. A byte past the window, a byte after FIN, an ACK of what was never
// sent are protocol errors: the receiver answers RESET with StreamCode Protocol.
//
// A sender keeps what was not acknowledged, at most its SendBuffer, and marks a DATA frame as DATA_ASK whenever a quarter of that buffer
// was sent since the last one; so a receiver need acknowledge only when asked and when a quarter of its window has been taken, and no
// pair of buffer sizes stalls.
package resume
