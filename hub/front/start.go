package front

import "hawser/tunnel/channel"

// startRequest sends a request that wants a reply.
func startRequest(dev *channel.Conn, name string, payload []byte) (<-chan bool, error) {
	ok, err := dev.SendRequest(name, true, payload)
	if err != nil {
		return nil, err
	}
	return answered(ok), nil
}
